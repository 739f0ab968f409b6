#include "policy/signature/pgp_table.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <optional>

#include "policy/signature/pgp_verify.h"
#include "policy/text/hex.h"

namespace postern::signature {
namespace {

constexpr std::string_view kFirstLine = "postern-keyring 1";

Problem wrong(std::size_t line, std::string_view what) {
  return Problem{std::string(kTableName) + ":" + std::to_string(line) + ": " + std::string(what)};
}

template <class T>
struct Flag {
  std::string_view name;
  bool T::* member;
};

constexpr std::array kKeyFlags = std::to_array<Flag<PgpKey>>({
    {"revoked", &PgpKey::revoked},
    {"invalid", &PgpKey::invalid},
    {"uid-revoked", &PgpKey::uid_revoked},
});
constexpr std::array kPartFlags = std::to_array<Flag<PgpPart>>({
    {"sign", &PgpPart::may_sign},
    {"revoked", &PgpPart::revoked},
    {"invalid", &PgpPart::invalid},
    {"uncertified", &PgpPart::uncertified},
});

template <class T, std::size_t N>
std::string flags_text(const T& from, const std::array<Flag<T>, N>& flags) {
  std::string out;
  for (const Flag<T>& flag : flags) {
    if (from.*flag.member) {
      out += (out.empty() ? "" : ",") + std::string(flag.name);
    }
  }
  return out.empty() ? "-" : out;
}

template <class T, std::size_t N>
bool parse_flags(std::string_view text, const std::array<Flag<T>, N>& flags, T& to) {
  if (text == "-") {
    return true;
  }
  for (;;) {
    const std::size_t comma = text.find(',');
    const auto found = std::find_if(flags.begin(), flags.end(), [&](const Flag<T>& flag) {
      return flag.name == text.substr(0, comma);
    });
    if (found == flags.end()) {
      return false;
    }
    to.*found->member = true;
    if (comma == std::string_view::npos) {
      return true;
    }
    text.remove_prefix(comma + 1);
  }
}

bool is_plain(char c) {
  return c > ' ' && c < 0x7f && c != '%';
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += is_plain(c) ? std::string(1, c)
                       : "%" + text::to_hex(std::array{static_cast<std::uint8_t>(c)});
  }
  return out;
}

std::optional<std::string> unescaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    if (text[0] != '%') {
      out += text[0];
      text.remove_prefix(1);
      continue;
    }
    const auto byte = text::from_hex(text.substr(1, 2));
    if (!byte || byte->size() != 1) {
      return std::nullopt;
    }
    out += static_cast<char>(byte->front());
    text.remove_prefix(3);
  }
  return out;
}

std::string_view next_word(std::string_view& line) {
  const std::size_t blank = line.find(' ');
  const std::string_view word = line.substr(0, blank);
  line = blank == std::string_view::npos ? std::string_view() : line.substr(blank + 1);
  return word;
}

std::optional<PgpKey> parse_key(std::string_view rest) {
  PgpKey key;
  key.fingerprint = next_word(rest);
  if (!parse_flags(next_word(rest), kKeyFlags, key)) {
    return std::nullopt;
  }
  const auto name = unescaped(rest);
  if (!name) {
    return std::nullopt;
  }
  key.name = *name;
  return key;
}

std::optional<PgpPart> parse_part(std::string_view rest) {
  PgpPart part;
  const std::string_view flags = next_word(rest);
  const std::string_view expires = next_word(rest);
  const auto [stop, error] =
      std::from_chars(expires.data(), expires.data() + expires.size(), part.expires);
  const auto packet = text::from_hex(rest);
  if (!parse_flags(flags, kPartFlags, part) || error != std::errc() ||
      stop != expires.data() + expires.size() || part.expires < 0 || !packet) {
    return std::nullopt;
  }
  part.packet = *packet;
  return parse_key_body(part.packet) ? std::optional(std::move(part)) : std::nullopt;
}

Outcome<> take_line(std::string_view line, std::size_t number, PgpTable& table) {
  const std::string_view word = next_word(line);
  if (word == "ring" && table.keys.empty() && table.ring_sha256.empty()) {
    const auto digest = text::from_hex(line);
    if (!digest || digest->size() != 32) {
      return wrong(number, "not a SHA-256");
    }
    table.ring_sha256 = line;
    return Ok{};
  }
  if (word == "key") {
    auto key = parse_key(line);
    if (!key) {
      return wrong(number, "not a key");
    }
    table.keys.push_back(*std::move(key));
    return Ok{};
  }
  if (word == "part" && !table.keys.empty()) {
    auto part = parse_part(line);
    if (!part) {
      return wrong(number, "not a part of a key");
    }
    table.keys.back().parts.push_back(*std::move(part));
    return Ok{};
  }
  return wrong(number, "not a line of a compiled keyring");
}

PgpCheck bad(std::string why, const PgpSigner& signer = {}) {
  return {PgpCheck::Result::kBad, std::move(why), signer};
}

// The one signature packet of the message: clear_sign.h has looked at its form already.
Outcome<SignatureBody> signature_of(const ClearSigned& message) {
  PacketBytes bytes = message.packets;
  POSTERN_TRY_ASSIGN(const Packet packet, take_packet(bytes));
  return parse_signature_body(packet.body);
}

bool names(const std::string& issuer, const std::string& fingerprint) {
  return issuer.size() == fingerprint.size() ? issuer == fingerprint
                                             : fingerprint.ends_with(issuer);
}

}  // namespace

std::string write_table(const PgpTable& table) {
  std::string out = std::string(kFirstLine) + "\nring " + table.ring_sha256 + "\n";
  for (const PgpKey& key : table.keys) {
    out += "key " + key.fingerprint + " " + flags_text(key, kKeyFlags) + " " + escaped(key.name) +
           "\n";
    for (const PgpPart& part : key.parts) {
      out += "part " + flags_text(part, kPartFlags) + " " + std::to_string(part.expires) + " " +
             text::to_hex(part.packet) + "\n";
    }
  }
  return out;
}

Outcome<PgpTable> parse_table(std::string_view text) {
  PgpTable table;
  std::size_t number = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    ++number;
    if (end == std::string_view::npos) {
      return wrong(number, "the last line does not end");
    }
    const std::string_view line = text.substr(0, end);
    if (number == 1) {
      if (line != kFirstLine) {
        return wrong(number, "of an unknown version");
      }
    } else {
      POSTERN_TRY(take_line(line, number, table));
    }
    text.remove_prefix(end + 1);
  }
  if (table.ring_sha256.empty()) {
    return wrong(number, "incomplete");
  }
  for (const PgpKey& key : table.keys) {
    if (key.parts.empty() ||
        parse_key_body(key.parts.front().packet)->fingerprint != key.fingerprint) {
      return wrong(number, "a key without its primary part");
    }
  }
  return table;
}

bool signs_back(const PgpPart& primary,
                const PgpPart& subkey,
                const std::vector<PacketBytes>& signatures) {
  constexpr std::uint8_t kBindsSubkey = 0x18;
  constexpr std::uint8_t kBindsBack = 0x19;
  const auto key = parse_key_body(subkey.packet);
  if (!key) {
    return false;
  }
  std::vector<std::uint8_t> both = framed_key(primary.packet);
  const std::vector<std::uint8_t> second = framed_key(subkey.packet);
  both.insert(both.end(), second.begin(), second.end());
  for (const PacketBytes bytes : signatures) {
    const auto binding = parse_signature_body(bytes);
    if (!binding || binding->type != kBindsSubkey) {
      continue;
    }
    for (const PacketBytes inner : binding->embedded) {
      const auto back = parse_signature_body(inner);
      if (back && back->type == kBindsBack && !back->unknown_critical &&
          verify_signature(*key, *back, both)) {
        return true;
      }
    }
  }
  return false;
}

TableRing::TableRing(PgpTable table, std::function<std::int64_t()> now)
    : table_(std::move(table)), now_(std::move(now)) {
  if (!now_) {
    now_ = [] { return static_cast<std::int64_t>(std::time(nullptr)); };
  }
}

// In GnuPG's order: the mathematics first, then what is wrong with signature and key.
PgpCheck TableRing::check_with(const PgpKey& key,
                               const PgpPart& part,
                               const ClearSigned& message,
                               const SignatureBody& signature) const {
  const PgpPart& primary = key.parts.front();
  const auto primary_body = parse_key_body(primary.packet);
  const auto body = parse_key_body(part.packet);
  if (!primary_body || !body) {
    return bad("the key cannot be read");
  }
  const PgpSigner signer{key.fingerprint, key.name, KeyOrigin::kGlobal};
  // SAFETY: any object may be read as bytes.
  const PacketBytes text(reinterpret_cast<const std::uint8_t*>(message.signed_bytes.data()),
                         message.signed_bytes.size());
  if (const auto made = verify_signature(*body, signature, text); !made) {
    return bad(made.error().what, signer);
  }
  const std::int64_t now = now_();
  const auto dead = [&](const PgpPart& which) {
    return which.revoked || which.invalid || (which.expires != 0 && which.expires <= now);
  };
  if (signature.lifetime != 0 &&
      std::int64_t{signature.created} + std::int64_t{signature.lifetime} <= now) {
    return bad("the signature has expired", signer);
  }
  if (std::int64_t{signature.created} > now) {
    return bad("the signature is dated in the future", signer);
  }
  if (signature.created < body->created) {
    return bad("the signature is older than its key", signer);
  }
  if (key.revoked || key.invalid || dead(primary)) {
    return bad("the signer's key is expired, revoked or invalid", signer);
  }
  if (key.uid_revoked) {
    return bad("the signer's user id has been revoked", signer);
  }
  if (dead(part)) {
    return bad("the signer's subkey is expired, revoked or invalid", signer);
  }
  if (!part.may_sign) {
    return bad("the signer's key may not sign", signer);
  }
  if (part.uncertified) {
    return bad("the signer's subkey does not vouch for its primary key", signer);
  }
  if (std::int64_t{body->created} > now || std::int64_t{primary_body->created} > now) {
    return bad("the signer's key is dated in the future", signer);
  }
  return {PgpCheck::Result::kGood, {}, signer};
}

Outcome<PgpCheck> TableRing::check(const ClearSigned& message) const {
  if (const auto form = parse_signature_packet(message); !form) {
    return bad(form.error().what);
  }
  const Outcome<SignatureBody> signature = signature_of(message);
  if (!signature) {
    return bad(signature.error().what);
  }
  if (signature->unknown_critical) {
    return bad("the signature has a critical part that is not known");
  }
  PgpCheck out{PgpCheck::Result::kUnknownKey, "unknown signer", {}};
  for (const PgpKey& key : table_.keys) {
    for (const PgpPart& part : key.parts) {
      const auto body = parse_key_body(part.packet);
      if (!body || !names(signature->issuer, body->fingerprint)) {
        continue;
      }
      // Key ids of 64 bits can collide: the key that made the signature decides.
      out = check_with(key, part, message, *signature);
      if (out.result == PgpCheck::Result::kGood) {
        return out;
      }
    }
  }
  return out;
}

}  // namespace postern::signature
