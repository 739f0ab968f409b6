#include "frontend/crypt/rsa.h"

#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include <openssl/bio.h>
#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "frontend/crypt/prompt.h"

namespace postern::crypt {
namespace {

struct Free {
  void operator()(BIO* bio) const noexcept { BIO_free_all(bio); }

  void operator()(EVP_PKEY* key) const noexcept { EVP_PKEY_free(key); }

  void operator()(EVP_PKEY_CTX* context) const noexcept { EVP_PKEY_CTX_free(context); }

  void operator()(ASN1_OCTET_STRING* string) const noexcept { ASN1_OCTET_STRING_free(string); }

  void operator()(OSSL_DECODER_CTX* decoder) const noexcept { OSSL_DECODER_CTX_free(decoder); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

constexpr int kMinimumModulusBytes = 256;  // RSA-2048
constexpr std::size_t kOaepOverhead = 66;  // 2 × SHA-256 + 2 (RFC 8017, 7.1.1)
constexpr std::size_t kMaxPieces = 64;

struct PassphraseRequest {
  const std::string& name;
  bool asked = false;
  std::optional<Problem> refused = {};  // there was nobody to ask
};

int ask_pem_passphrase(char* buffer, int size, int /*writing*/, void* user) {
  auto* request = static_cast<PassphraseRequest*>(user);
  request->asked = true;
  auto answer = prompt_secret("Enter passphrase for " + request->name + ": ");
  if (!answer) {
    request->refused = std::move(answer).error();
    return -1;
  }
  if (answer->size() > static_cast<std::size_t>(size)) {
    return -1;
  }
  std::memcpy(buffer, answer->bytes().data(), answer->size());
  return static_cast<int>(answer->size());
}

Outcome<Owned<EVP_PKEY>> read_rsa(const char* pem,
                                  std::size_t size,
                                  const std::string& name,
                                  int selection) {
  const Owned<BIO> input(BIO_new_mem_buf(pem, static_cast<int>(size)));
  EVP_PKEY* raw = nullptr;
  const Owned<OSSL_DECODER_CTX> decoder(
      OSSL_DECODER_CTX_new_for_pkey(&raw, "PEM", nullptr, "RSA", selection, nullptr, nullptr));
  PassphraseRequest request{name};
  if (input == nullptr || decoder == nullptr ||
      OSSL_DECODER_CTX_set_pem_password_cb(decoder.get(), ask_pem_passphrase, &request) != 1 ||
      OSSL_DECODER_from_bio(decoder.get(), input.get()) != 1 || raw == nullptr) {
    ERR_clear_error();
    if (request.refused) {
      return Problem{
          .what = name + " is locked: " + request.refused->what,
          .cure = "start it from a terminal, or give a key that is not locked (openssl pkey -in " +
                  name + ")"};
    }
    if (request.asked) {
      return Problem{.what = name + ": the passphrase of the PEM file is wrong"};
    }
    return Problem{.what = name + ": no RSA " +
                           std::string(selection == EVP_PKEY_KEYPAIR ? "private" : "public") +
                           " key in PEM form",
                   .cure = selection == EVP_PKEY_KEYPAIR
                               ? "running needs the private key (openssl genrsa -traditional)"
                               : "encrypting needs the public key (openssl rsa -RSAPublicKey_out)"};
  }
  Owned<EVP_PKEY> key(raw);
  if (EVP_PKEY_get_size(raw) < kMinimumModulusBytes) {
    return Problem{.what = name + ": an RSA key of less than 2048 bits protects nothing"};
  }
  return key;
}

Outcome<Owned<EVP_PKEY_CTX>> oaep(EVP_PKEY* key, int (*start)(EVP_PKEY_CTX*)) {
  Owned<EVP_PKEY_CTX> context(EVP_PKEY_CTX_new(key, nullptr));
  if (context == nullptr || start(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
      EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), EVP_sha256()) != 1 ||
      EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), EVP_sha256()) != 1) {
    return Problem{.what = "OpenSSL refused RSA-OAEP with SHA-256"};
  }
  return context;
}

}  // namespace

Outcome<std::string> wrap_secret(std::span<const std::byte> secret,
                                 const std::string& pem,
                                 const std::string& name) {
  auto found = read_rsa(pem.data(), pem.size(), name, EVP_PKEY_PUBLIC_KEY);
  if (!found) {
    return std::move(found).error();
  }
  const Owned<EVP_PKEY> key = *std::move(found);
  const auto modulus = static_cast<std::size_t>(EVP_PKEY_get_size(key.get()));
  std::string wrapped;
  while (!secret.empty()) {
    POSTERN_TRY_ASSIGN(const Owned<EVP_PKEY_CTX> context, oaep(key.get(), EVP_PKEY_encrypt_init));
    const auto piece = secret.first(std::min(secret.size(), modulus - kOaepOverhead));
    std::string block(modulus, '\0');
    std::size_t length = block.size();
    // SAFETY: unsigned char may alias any object.
    if (EVP_PKEY_encrypt(context.get(), reinterpret_cast<unsigned char*>(block.data()), &length,
                         reinterpret_cast<const unsigned char*>(piece.data()), piece.size()) != 1 ||
        length != modulus) {
      return Problem{.what = name + ": RSA encryption failed"};
    }
    wrapped += block;
    secret = secret.subspan(piece.size());
  }
  const Owned<ASN1_OCTET_STRING> octets(ASN1_OCTET_STRING_new());
  unsigned char* der = nullptr;
  if (octets == nullptr ||
      ASN1_OCTET_STRING_set(octets.get(), reinterpret_cast<const unsigned char*>(wrapped.data()),
                            static_cast<int>(wrapped.size())) != 1) {
    return Problem{.what = "out of memory"};
  }
  const int der_bytes = i2d_ASN1_OCTET_STRING(octets.get(), &der);
  const Owned<BIO> output(BIO_new(BIO_s_mem()));
  const bool written = der_bytes > 0 && output != nullptr &&
                       PEM_write_bio(output.get(), "MESSAGE", "", der, der_bytes) > 0;
  OPENSSL_free(der);
  char* text = nullptr;
  const long size = written ? BIO_get_mem_data(output.get(), &text) : 0;
  if (size <= 0) {
    return Problem{.what = "out of memory"};
  }
  return std::string(text, static_cast<std::size_t>(size));
}

Outcome<SecretBytes> unwrap_secret(const std::string& message,
                                   const SecretBytes& pem,
                                   const std::string& name) {
  const Owned<BIO> input(BIO_new_mem_buf(message.data(), static_cast<int>(message.size())));
  char* label = nullptr;
  char* header = nullptr;
  unsigned char* der = nullptr;
  long der_bytes = 0;
  const bool read =
      input != nullptr && PEM_read_bio(input.get(), &label, &header, &der, &der_bytes) == 1;
  const unsigned char* cursor = der;
  const Owned<ASN1_OCTET_STRING> octets(read ? d2i_ASN1_OCTET_STRING(nullptr, &cursor, der_bytes)
                                             : nullptr);
  OPENSSL_free(label);
  OPENSSL_free(header);
  OPENSSL_free(der);
  if (octets == nullptr) {
    ERR_clear_error();
    return Problem{
        .what = "the image's wrapped key is damaged: not a PEM message with an octet string"};
  }
  const std::span wrapped(ASN1_STRING_get0_data(octets.get()),
                          static_cast<std::size_t>(ASN1_STRING_length(octets.get())));

  auto found = read_rsa(pem.chars(), pem.size(), name, EVP_PKEY_KEYPAIR);
  if (!found) {
    return std::move(found).error();
  }
  const Owned<EVP_PKEY> key = *std::move(found);
  const auto modulus = static_cast<std::size_t>(EVP_PKEY_get_size(key.get()));
  if (wrapped.empty() || wrapped.size() % modulus != 0 || wrapped.size() / modulus > kMaxPieces) {
    return Problem{.what = name + ": the image's key was wrapped for an RSA key of another size"};
  }
  SecretBytes secret(wrapped.size());
  std::size_t filled = 0;
  for (std::size_t at = 0; at < wrapped.size(); at += modulus) {
    POSTERN_TRY_ASSIGN(const Owned<EVP_PKEY_CTX> context, oaep(key.get(), EVP_PKEY_decrypt_init));
    std::size_t length = secret.size() - filled;
    // SAFETY: unsigned char may alias any object.
    if (EVP_PKEY_decrypt(context.get(),
                         reinterpret_cast<unsigned char*>(secret.bytes().data()) + filled, &length,
                         wrapped.data() + at, modulus) != 1) {
      ERR_clear_error();
      return Problem{.what = "failed to decrypt, ensure you have supplied appropriate key material",
                     .cure = "the image was encrypted for another RSA key than " + name};
    }
    filled += length;
  }
  secret.truncate(filled);
  return secret;
}

}  // namespace postern::crypt
