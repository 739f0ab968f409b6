// PEM texts: public and private keys, certificates, and wrapped keys of encrypted images.
#include <cstring>
#include <string>
#include <string_view>

#include "frontend/crypt/rsa.h"
#include "fuzz/target.h"
#include "policy/signature/pem_key.h"

namespace {

namespace crypt = postern::crypt;
namespace signature = postern::signature;

// A key of 2048 bits that opens nothing.
constexpr std::string_view kPrivateKey =
#include "fuzz/pem_fuzz_key.inc"
    ;

crypt::SecretBytes secret_of(std::string_view text) {
  crypt::SecretBytes secret(text.size());
  std::memcpy(secret.bytes().data(), text.data(), text.size());
  return secret;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);  // SAFETY: bytes are chars
  const auto no_passphrase = [] { return std::optional<std::string>("x"); };
  if (const auto key = signature::PrivateKey::from_pem(text, "key", no_passphrase)) {
    // What a key of ours signs, its public half accepts.
    const auto made = key->sign("message");
    if (made && !key->public_key().verify("message", *made)) {
      __builtin_trap();
    }
  }
  if (const auto key = signature::PublicKey::from_pem(text, "key")) {
    if (!key->ssh_id().starts_with("SHA256:") || key->identities().empty() ||
        key->verify("message", {})) {
      __builtin_trap();
    }
  }
  if (const auto print = signature::certificate_fingerprint(text); print && print->size() != 64) {
    __builtin_trap();
  }
  static_cast<void>(signature::certificate_is_out_of_date(text).has_value());
  static_cast<void>(signature::key_of_certificate(
                        {.leaf = text, .intermediates = text, .roots = text}, "certificate")
                        .has_value());
  if (size > 0) {
    static const crypt::SecretBytes key = secret_of(kPrivateKey);
    static_cast<void>(crypt::unwrap_secret(text, key, "key").has_value());
    const auto other = secret_of("a secret");
    if (text.find("ENCRYPTED") == text.npos) {  // that one would ask
      const auto wrapped = crypt::wrap_secret(other.bytes(), text, "key");
      if (wrapped && text.find("PRIVATE KEY") != text.npos) {
        const auto back = crypt::unwrap_secret(*wrapped, secret_of(text), "key");
        if (back && (back->size() != other.size() ||
                     std::memcmp(back->bytes().data(), other.bytes().data(), other.size()) != 0)) {
          __builtin_trap();
        }
      }
    }
  }
  return 0;
}
