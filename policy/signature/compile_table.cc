#include "policy/signature/compile_table.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include <gpgme.h>

#include "policy/signature/digest.h"
#include "policy/signature/gnupg_ring.h"
#include "policy/signature/pgp_verify.h"
#include "policy/text/base64.h"
#include "policy/text/hex.h"

namespace postern::signature {
namespace {

struct KeyRelease {
  void operator()(gpgme_key_t key) const { gpgme_key_unref(key); }
};

using Key = std::unique_ptr<_gpgme_key, KeyRelease>;

struct ContextRelease {
  void operator()(gpgme_ctx_t context) const { gpgme_release(context); }
};

using Context = std::unique_ptr<gpgme_context, ContextRelease>;

Problem engine_problem(gpgme_error_t error) {
  std::array<char, 256> words{};
  gpgme_strerror_r(error, words.data(), words.size());
  return Problem{std::string("listing the site's keys: GnuPG: ") + words.data()};
}

// A key packet of the ring and the signatures behind it.
struct RawKey {
  PacketBytes packet;
  std::vector<PacketBytes> signatures;
};

PacketBytes bytes_of(const std::string& text) {
  // SAFETY: any object may be read as bytes.
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// By fingerprint.
Outcome<std::map<std::string, RawKey>> raw_keys(const std::string& ring) {
  std::map<std::string, RawKey> out;
  RawKey* current = nullptr;
  PacketBytes rest = bytes_of(ring);
  while (!rest.empty()) {
    POSTERN_TRY_ASSIGN(const Packet packet, take_packet(rest));
    switch (PacketTag{packet.tag}) {
      case PacketTag::kPublicKey:
      case PacketTag::kPublicSubkey: {
        const auto body = parse_key_body(packet.body);
        current = body ? &out[body->fingerprint] : nullptr;
        if (current != nullptr) {
          current->packet = packet.body;
        }
        break;
      }
      case PacketTag::kSignature:
        if (current != nullptr) {
          current->signatures.push_back(packet.body);
        }
        break;
      case PacketTag::kUserId:
        break;
    }
  }
  return out;
}

std::string lower(const char* text) {
  std::string out = text != nullptr ? text : "";
  std::transform(out.begin(), out.end(), out.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return out;
}

Outcome<PgpPart> part_of(const _gpgme_subkey& subkey, const RawKey& raw) {
  POSTERN_TRY_ASSIGN(const KeyBody body, parse_key_body(raw.packet));
  POSTERN_TRY(check_key_kind(body));
  PgpPart part;
  part.may_sign = subkey.can_sign != 0;
  part.revoked = subkey.revoked != 0;
  part.invalid = subkey.invalid != 0 || subkey.disabled != 0;
  part.expires = subkey.expires;
  part.packet.assign(raw.packet.begin(), raw.packet.end());
  return part;
}

// Adds one key; parts that cannot sign are of no use, except the primary.
void add_key(const _gpgme_key& key, const std::map<std::string, RawKey>& raw, Compiled& out) {
  PgpKey made;
  made.fingerprint = lower(key.subkeys != nullptr ? key.subkeys->fpr : nullptr);
  made.revoked = key.revoked != 0;
  made.invalid = key.invalid != 0 || key.disabled != 0;
  made.uid_revoked = key.uids != nullptr && key.uids->revoked != 0;
  made.name = key.uids != nullptr && key.uids->uid != nullptr && *key.uids->uid != '\0'
                  ? key.uids->uid
                  : "unknown";
  for (const _gpgme_subkey* subkey = key.subkeys; subkey != nullptr; subkey = subkey->next) {
    const bool is_primary = subkey == key.subkeys;
    const std::string fingerprint = lower(subkey->fpr);
    if (!is_primary && subkey->can_sign == 0) {
      continue;
    }
    const auto found = raw.find(fingerprint);
    auto part = found != raw.end() ? part_of(*subkey, found->second)
                                   : Outcome<PgpPart>(Problem{"a key of a version other than 4"});
    if (!part && is_primary) {
      // Its subkeys may be of a kind that can be checked: the primary is kept, and signs nothing.
      out.left_out.push_back(fingerprint + ": " + part.error().what);
      if (found == raw.end()) {
        return;
      }
      PgpPart silent;
      silent.revoked = subkey->revoked != 0;
      silent.expires = subkey->expires;
      silent.packet.assign(found->second.packet.begin(), found->second.packet.end());
      made.parts.push_back(std::move(silent));
      continue;
    }
    if (!part) {
      out.left_out.push_back(fingerprint + ": " + part.error().what);
      continue;
    }
    part->uncertified =
        !is_primary && !signs_back(made.parts.front(), *part, found->second.signatures);
    made.parts.push_back(*std::move(part));
  }
  if (!made.parts.empty()) {
    out.table.keys.push_back(std::move(made));
  }
}

Outcome<Context> open_context(const std::string& directory) {
  POSTERN_TRY_ASSIGN(const std::string program, start_gpgme());
  gpgme_ctx_t raw = nullptr;
  gpgme_error_t error = gpgme_new(&raw);
  Context context(raw);
  if (error == 0) {
    error = gpgme_ctx_set_engine_info(context.get(), GPGME_PROTOCOL_OpenPGP, program.c_str(),
                                      directory.c_str());
  }
  if (error != 0) {
    return engine_problem(error);
  }
  gpgme_set_offline(context.get(), 1);
  return context;
}

}  // namespace

Outcome<Compiled> compile_table(const std::string& directory, const std::string& ring) {
  POSTERN_TRY_ASSIGN(const auto raw, raw_keys(ring));
  Compiled out;
  const Digest digest = digest_of(Algorithm::kSha256, ring);
  out.table.ring_sha256 = text::to_hex(std::span(digest.bytes).first(32));
  if (ring.empty()) {
    return out;
  }
  POSTERN_TRY_ASSIGN(const Context context, open_context(directory));
  gpgme_error_t error = gpgme_op_keylist_start(context.get(), nullptr, /*secret_only=*/0);
  while (error == 0) {
    gpgme_key_t next = nullptr;
    error = gpgme_op_keylist_next(context.get(), &next);
    const Key key(next);
    if (error == 0) {
      add_key(*key, raw, out);
    }
  }
  gpgme_op_keylist_end(context.get());
  if (gpgme_err_code(error) != GPG_ERR_EOF) {
    return engine_problem(error);
  }
  return out;
}

Outcome<> check_key_version(const std::string& bytes) {
  std::string binary = bytes;
  constexpr std::string_view kBegin = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
  if (const std::size_t begin = bytes.find(kBegin); begin != std::string::npos) {
    // Behind the blank line: base64, to the checksum or the end line. Less than a line is enough.
    std::size_t at = bytes.find("\n\n", begin);
    at = at == std::string::npos ? bytes.find("\n\r\n", begin) : at;
    const std::size_t start = at == std::string::npos ? at : bytes.find_first_not_of("\r\n", at);
    if (start == std::string::npos) {
      return Ok{};
    }
    const auto decoded = text::decode_base64(std::string_view(bytes).substr(start, 16));
    if (!decoded) {
      return Ok{};
    }
    binary.assign(decoded->begin(), decoded->end());
  }
  const PacketBytes packet = bytes_of(binary);
  // The tag, one to five bytes of length, the version.
  if (packet.size() < 7 || (packet[0] & 0x80) == 0) {
    return Ok{};
  }
  const bool new_format = (packet[0] & 0x40) != 0;
  const unsigned tag = new_format ? packet[0] & 0x3fU : packet[0] >> 2 & 0xfU;
  const std::size_t length_bytes = !new_format       ? std::size_t{1} << (packet[0] & 3U)
                                   : packet[1] < 192 ? 1
                                   : packet[1] < 224 ? 2
                                                     : 5;
  if (PacketTag{static_cast<std::uint8_t>(tag)} != PacketTag::kPublicKey || length_bytes > 5) {
    return Ok{};
  }
  const unsigned version = packet[1 + length_bytes];
  if (version == 4) {
    return Ok{};
  }
  return Problem{"the key is of OpenPGP version " + std::to_string(version) +
                     ", and only version 4 is supported",
                 "use a key of version 4, which every GnuPG makes"};
}

}  // namespace postern::signature
