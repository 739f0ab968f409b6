#include "frontend/crypt/gocryptfs.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "policy/json/strict.h"
#include "policy/text/base64.h"

namespace postern::crypt {
namespace {

using Kind = json::Value::Kind;
using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kNonceBytes = 16;
constexpr std::size_t kTagBytes = 16;
constexpr std::string_view kPurpose = "AES-GCM file content encryption";

struct Configuration {
  Bytes sealed_key;  // nonce, ciphertext, tag
  Bytes salt;
  std::uint64_t n = 0;
  std::uint64_t r = 0;
  std::uint64_t p = 0;
};

Problem malformed(std::string what) {
  return Problem{.what = "gocryptfs.conf of the image " + std::move(what),
                 .cure = "the image is damaged, or was not encrypted by Apptainer"};
}

std::optional<Bytes> bytes_of(const json::Value& object, std::string_view name) {
  const json::Value* value = object.find(name, Kind::kString);
  return value == nullptr ? std::nullopt : text::decode_base64(value->text);
}

std::uint64_t number_of(const json::Value& object, std::string_view name) {
  const json::Value* value = object.find(name, Kind::kUnsigned);
  return value == nullptr ? 0 : value->number;
}

Outcome<> check_flags(const json::Value& root) {
  const json::Value* flags = root.find("FeatureFlags", Kind::kArray);
  bool hkdf = false;
  bool long_nonces = false;
  for (const json::Value& flag : flags == nullptr ? std::vector<json::Value>() : flags->items) {
    hkdf = hkdf || flag.text == "HKDF";
    long_nonces = long_nonces || flag.text == "GCMIV128";
    // The names of files do not matter here; other ways to encrypt what is in them do.
    static constexpr std::array<std::string_view, 7> kKnown = {
        "HKDF", "GCMIV128", "PlaintextNames", "DirIV", "EMENames", "LongNames", "Raw64"};
    if (std::find(kKnown.begin(), kKnown.end(), flag.text) == kKnown.end()) {
      return malformed("asks for \"" + flag.text + "\", which is not supported");
    }
  }
  return hkdf && long_nonces ? Outcome<>(Ok{}) : malformed("is of an old format");
}

Outcome<Configuration> parse(std::string_view text, const KdfLimits& limits) {
  const auto root = json::parse(text);
  if (!root) {
    return malformed("is not JSON: " + root.error().what);
  }
  if (number_of(*root, "Version") != 2) {
    return malformed("is not of version 2");
  }
  POSTERN_TRY(check_flags(*root));
  const json::Value* scrypt = root->find("ScryptObject", Kind::kObject);
  const auto sealed = bytes_of(*root, "EncryptedKey");
  const auto salt = scrypt == nullptr ? std::nullopt : bytes_of(*scrypt, "Salt");
  if (!sealed || sealed->size() != kNonceBytes + kKeyBytes + kTagBytes || !salt || salt->empty() ||
      number_of(*scrypt, "KeyLen") != kKeyBytes) {
    return malformed("has no key that can be opened");
  }
  const Configuration out = {.sealed_key = *sealed,
                             .salt = *salt,
                             .n = number_of(*scrypt, "N"),
                             .r = number_of(*scrypt, "R"),
                             .p = number_of(*scrypt, "P")};
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  if (out.n < 2 || out.n > kMost || (out.n & (out.n - 1)) != 0 || out.r == 0 || out.r > 1024 ||
      out.p == 0 || out.p > 16) {
    return malformed("asks for an impossible key derivation");
  }
  if (out.n * out.r > limits.max_memory_kib * std::uint64_t{8}) {  // 128 bytes each
    return Problem{.what = "unlocking the image needs " + std::to_string(out.n * out.r / 8) +
                           " KiB of memory, more than crypt.max-memory-kib",
                   .cure = "ask the site's administrator"};
  }
  return out;
}

const unsigned char* raw(std::span<const std::byte> bytes) {
  // SAFETY: bytes as the library calls them.
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

unsigned char* raw(SecretBytes& secret) {
  return reinterpret_cast<unsigned char*>(secret.bytes().data());
}

// HKDF-SHA256 without salt (RFC 5869).
bool derive(const SecretBytes& from, SecretBytes& out) {
  const std::unique_ptr<EVP_KDF, void (*)(EVP_KDF*)> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr),
                                                         &EVP_KDF_free);
  const std::unique_ptr<EVP_KDF_CTX, void (*)(EVP_KDF_CTX*)> context(
      kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr, &EVP_KDF_CTX_free);
  std::string digest = "SHA256";
  std::string purpose(kPurpose);
  const std::array<OSSL_PARAM, 4> parameters = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                        const_cast<std::byte*>(from.bytes().data()), from.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, purpose.data(), purpose.size()),
      OSSL_PARAM_construct_end()};
  return context && EVP_KDF_derive(context.get(), raw(out), out.size(), parameters.data()) == 1;
}

// The master key is one block of a file that has no name (see gocryptfs.h of postern-squashfs).
bool open_master_key(const SecretBytes& key, const Bytes& sealed, SecretBytes& out) {
  const std::unique_ptr<EVP_CIPHER_CTX, void (*)(EVP_CIPHER_CTX*)> context(EVP_CIPHER_CTX_new(),
                                                                           &EVP_CIPHER_CTX_free);
  const std::array<unsigned char, 8> number{};
  Bytes tag(sealed.end() - kTagBytes, sealed.end());
  int done = 0;
  int last = 0;
  EVP_CIPHER_CTX* const c = context.get();
  return c != nullptr && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), nullptr, nullptr, nullptr) == 1 &&
         EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_IVLEN, kNonceBytes, nullptr) == 1 &&
         EVP_DecryptInit_ex(c, nullptr, nullptr, raw(key.bytes()), sealed.data()) == 1 &&
         EVP_DecryptUpdate(c, nullptr, &done, number.data(), number.size()) == 1 &&
         EVP_DecryptUpdate(c, raw(out), &done, sealed.data() + kNonceBytes, kKeyBytes) == 1 &&
         EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) == 1 &&
         EVP_DecryptFinal_ex(c, raw(out) + done, &last) == 1;
}

}  // namespace

Outcome<SecretBytes> gocryptfs_key(std::string_view configuration,
                                   std::span<const std::byte> passphrase,
                                   const KdfLimits& limits) {
  POSTERN_TRY_ASSIGN(const Configuration found, parse(configuration, limits));
  SecretBytes stretched(kKeyBytes);
  SecretBytes opener(kKeyBytes);
  SecretBytes master(kKeyBytes);
  SecretBytes contents(kKeyBytes);
  constexpr std::uint64_t kRoom = 1 << 20;  // beside the table itself
  // SAFETY: a passphrase is bytes.
  if (EVP_PBE_scrypt(reinterpret_cast<const char*>(passphrase.data()), passphrase.size(),
                     found.salt.data(), found.salt.size(), found.n, found.r, found.p,
                     (found.n + found.p) * found.r * 128 + kRoom, raw(stretched),
                     stretched.size()) != 1 ||
      !derive(stretched, opener)) {
    return Problem{.what = "deriving the key of the image: OpenSSL could not",
                   .cure = "memory may be short: `ulimit -v`, or the limit of the job"};
  }
  if (!open_master_key(opener, found.sealed_key, master)) {
    return Problem{.what = "the key does not open the image",
                   .cure = "check the passphrase or the key file"};
  }
  if (!derive(master, contents)) {
    return Problem{.what = "deriving the key of the image: OpenSSL could not"};
  }
  return contents;
}

}  // namespace postern::crypt
