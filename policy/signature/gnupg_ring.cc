#include "policy/signature/gnupg_ring.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <optional>

#include <gpgme.h>
#include <unistd.h>

namespace postern::signature {
namespace {

Problem engine_problem(std::string doing, gpgme_error_t error) {
  std::array<char, 256> words{};
  gpgme_strerror_r(error, words.data(), words.size());
  return Problem{std::move(doing) + ": GnuPG: " + words.data()};
}

// A gpgme data object over bytes that stay where they are.
class Data {
 public:
  Data(const void* bytes, std::size_t size) {
    gpgme_data_new_from_mem(&data_, static_cast<const char*>(bytes), size, 0);
  }

  ~Data() {
    if (data_ != nullptr) {
      gpgme_data_release(data_);
    }
  }

  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;

  [[nodiscard]] gpgme_data_t get() const { return data_; }

 private:
  gpgme_data_t data_ = nullptr;
};

struct KeyRelease {
  void operator()(gpgme_key_t key) const { gpgme_key_unref(key); }
};

using Key = std::unique_ptr<_gpgme_key, KeyRelease>;

std::string lower_hex(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

PgpCheck bad(std::string why) {
  return {PgpCheck::Result::kBad, std::move(why), {}};
}

struct StatusRow {
  gpgme_err_code_t code;
  std::string_view why;
};

constexpr std::array kBadStatus = std::to_array<StatusRow>({
    {GPG_ERR_BAD_SIGNATURE, "the signature does not match the text"},
    {GPG_ERR_SIG_EXPIRED, "the signature has expired"},
    {GPG_ERR_KEY_EXPIRED, "the key has expired"},
    {GPG_ERR_CERT_REVOKED, "the key has been revoked"},
});

// What the engine said about the one signature, before the key is looked at. None: good so far.
std::optional<PgpCheck> judge_status(const _gpgme_signature& signature,
                                     const SignaturePacket& packet) {
  const gpgme_err_code_t code = gpgme_err_code(signature.status);
  if (code == GPG_ERR_NO_PUBKEY) {
    return PgpCheck{PgpCheck::Result::kUnknownKey, "unknown signer", {}};
  }
  for (const StatusRow& row : kBadStatus) {
    if (row.code == code) {
      return bad(std::string(row.why));
    }
  }
  if (code != GPG_ERR_NO_ERROR) {
    return bad("GnuPG cannot check the signature");
  }
  constexpr unsigned kBadSummary = GPGME_SIGSUM_RED | GPGME_SIGSUM_KEY_REVOKED |
                                   GPGME_SIGSUM_KEY_EXPIRED | GPGME_SIGSUM_SIG_EXPIRED |
                                   GPGME_SIGSUM_KEY_MISSING | GPGME_SIGSUM_SYS_ERROR;
  if ((static_cast<unsigned>(signature.summary) & kBadSummary) != 0 ||
      signature.wrong_key_usage != 0) {
    return bad("GnuPG does not accept the signature");
  }
  if (static_cast<unsigned>(signature.hash_algo) != static_cast<unsigned>(packet.hash)) {
    return bad("GnuPG used another hash than the signature names");
  }
  if (signature.timestamp > static_cast<unsigned long>(std::time(nullptr))) {
    return bad("the signature is dated in the future");
  }
  return std::nullopt;
}

// The rights of the key that made the signature, whose own fingerprint is `fingerprint`.
PgpCheck judge_key(const _gpgme_key& key, const char* fingerprint) {
  PgpCheck out = bad("");
  if (key.subkeys == nullptr || key.subkeys->fpr == nullptr || fingerprint == nullptr) {
    out.why = "the key has no fingerprint";
    return out;
  }
  out.signer.fingerprint = lower_hex(key.subkeys->fpr);
  out.signer.name = key.uids != nullptr && key.uids->uid != nullptr && *key.uids->uid != '\0'
                        ? key.uids->uid
                        : "unknown";
  const auto dead = [](const _gpgme_subkey& subkey) {
    return subkey.revoked != 0 || subkey.expired != 0 || subkey.disabled != 0 ||
           subkey.invalid != 0;
  };
  const _gpgme_subkey* used = key.subkeys;
  while (used != nullptr && (used->fpr == nullptr || std::string_view(used->fpr) != fingerprint)) {
    used = used->next;
  }
  if (key.revoked != 0 || key.expired != 0 || key.disabled != 0 || key.invalid != 0 ||
      dead(*key.subkeys)) {
    out.why = "the signer's key is expired, revoked or invalid";
  } else if (key.uids != nullptr && key.uids->revoked != 0) {
    out.why = "the signer's user id has been revoked";
  } else if (used == nullptr || dead(*used)) {
    out.why = "the signer's subkey is expired, revoked or invalid";
  } else if (used->can_sign == 0) {
    out.why = "the signer's key may not sign";
  } else if (used->timestamp > std::time(nullptr) || key.subkeys->timestamp > std::time(nullptr)) {
    out.why = "the signer's key is dated in the future";
  } else if (out.signer.fingerprint.size() != 40) {
    out.why = "the signer's key is of an unsupported version";
  } else {
    out.result = PgpCheck::Result::kGood;
  }
  return out;
}

// The one key of this fingerprint. Not gpgme_get_key(): it makes a context of its own for the
// listing, which runs GnuPG once more, for its version.
Outcome<Key> look_up(gpgme_ctx_t context, const std::string& fingerprint) {
  gpgme_key_t found = nullptr;
  gpgme_key_t second = nullptr;
  gpgme_error_t error = gpgme_op_keylist_start(context, fingerprint.c_str(), /*secret_only=*/0);
  if (error == 0) {
    error = gpgme_op_keylist_next(context, &found);
  }
  Key key(found);
  if (error == 0) {
    error = gpgme_op_keylist_next(context, &second);
    const Key other(second);
    error = other != nullptr                       ? gpgme_error(GPG_ERR_AMBIGUOUS_NAME)
            : gpgme_err_code(error) == GPG_ERR_EOF ? 0
                                                   : error;
  }
  gpgme_op_keylist_end(context);
  if (error != 0) {
    return engine_problem("looking up the signer's key", error);
  }
  return key;
}

Outcome<PgpCheck> check_here(gpgme_ctx_t context,
                             const ClearSigned& message,
                             const SignaturePacket& packet) {
  const Data signature(message.packets.data(), message.packets.size());
  const Data text(message.signed_bytes.data(), message.signed_bytes.size());
  if (const gpgme_error_t error = gpgme_op_verify(context, signature.get(), text.get(), nullptr);
      error != 0) {
    // A signature that GnuPG cannot parse is the image's fault; the rest is ours.
    return gpgme_err_code(error) == GPG_ERR_NO_DATA || gpgme_err_code(error) == GPG_ERR_BAD_DATA
               ? Outcome<PgpCheck>(bad("GnuPG cannot read the signature"))
               : engine_problem("checking a signature", error);
  }
  const auto* const result = gpgme_op_verify_result(context);
  if (result == nullptr || result->signatures == nullptr || result->signatures->next != nullptr) {
    return bad("GnuPG does not find exactly one signature");
  }
  if (auto verdict = judge_status(*result->signatures, packet)) {
    return *std::move(verdict);
  }
  // A copy: the next operation frees the result.
  const std::string fingerprint = result->signatures->fpr != nullptr ? result->signatures->fpr : "";
  POSTERN_TRY_ASSIGN(const Key key, look_up(context, fingerprint));
  return judge_key(*key, fingerprint.c_str());
}

Outcome<gpgme_ctx_t> context_of(const std::string& program, const std::string& directory) {
  gpgme_ctx_t context = nullptr;
  gpgme_error_t error = gpgme_new(&context);
  if (error == 0) {
    error = gpgme_ctx_set_engine_info(context, GPGME_PROTOCOL_OpenPGP, program.c_str(),
                                      directory.c_str());
  }
  if (error != 0) {
    gpgme_release(context);
    return engine_problem("opening keyring " + directory, error);
  }
  return context;
}

bool has_ring(const std::string& directory) {
  return ::access((directory + "/pubring.gpg").c_str(), F_OK) == 0 ||
         ::access((directory + "/pubring.kbx").c_str(), F_OK) == 0;
}

Outcome<std::string> start_once() {
  constexpr std::array kPrograms = {"/usr/bin/gpg", "/usr/local/bin/gpg", "/usr/bin/gpg2"};
  const auto found = std::find_if(kPrograms.begin(), kPrograms.end(),
                                  [](const char* path) { return ::access(path, X_OK) == 0; });
  if (found == kPrograms.end()) {
    return Problem{"GnuPG is not installed, so OpenPGP signatures cannot be handled",
                   "install the package 'gpg' (Debian) or 'gnupg2' (Fedora, RHEL)"};
  }
  std::string program = *found;
  // Without these gpgme runs gpgconf several times and asks gpgsm for its version: 8 ms more.
  gpgme_set_global_flag("disable-gpgconf", "1");
  gpgme_set_global_flag("gpg-name", program.substr(program.rfind('/') + 1).c_str());
  if (gpgme_check_version("1.18.0") == nullptr) {
    return Problem{"the gpgme library is older than 1.18"};
  }
  return program;
}

}  // namespace

std::string_view keyring_options() {
  return "# Written by postern: read the keys, and nothing else: no locks, no trust database, no "
         "agent.\n"
         "lock-never\n"
         "trust-model always\n"
         "no-auto-check-trustdb\n"
         "no-permission-warning\n"
         "no-random-seed-file\n"
         "no-autostart\n"
         "no-auto-key-retrieve\n";
}

Outcome<std::string> start_gpgme() {
  static const Outcome<std::string> started = start_once();
  return started;
}

void GnupgRing::Release::operator()(gpgme_context* context) const noexcept {
  gpgme_release(context);
}

Outcome<std::unique_ptr<GnupgRing>> GnupgRing::open(const std::string& directory,
                                                    KeyOrigin origin) {
  std::unique_ptr<GnupgRing> out(new GnupgRing(origin));
  if (!has_ring(directory)) {
    return out;
  }
  POSTERN_TRY_ASSIGN(const std::string program, start_gpgme());
  POSTERN_TRY_ASSIGN(gpgme_context* const context, context_of(program, directory));
  out->context_.reset(context);
  gpgme_set_offline(context, 1);
  return out;
}

Outcome<PgpCheck> GnupgRing::check(const ClearSigned& message) const {
  const auto packet = parse_signature_packet(message);
  if (!packet) {
    return bad(packet.error().what);
  }
  if (context_ == nullptr) {
    return PgpCheck{PgpCheck::Result::kUnknownKey, "unknown signer", {}};
  }
  auto out = check_here(context_.get(), message, *packet);
  if (out) {
    out->signer.origin = origin_;
  }
  return out;
}

}  // namespace postern::signature
