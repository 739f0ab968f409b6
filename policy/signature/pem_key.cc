#include "policy/signature/pem_key.h"

#include <algorithm>
#include <array>
#include <climits>

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "policy/signature/digest.h"
#include "policy/signature/owned.h"
#include "policy/text/base64.h"

namespace postern::signature {
namespace {

using OwnedBio = Owned<BIO, BIO_free>;
using OwnedKey = Owned<EVP_PKEY, EVP_PKEY_free>;
using OwnedCertificate = Owned<X509, X509_free>;

void free_stack(STACK_OF(X509) * stack) {
  sk_X509_pop_free(stack, X509_free);
}

using OwnedStack = Owned<STACK_OF(X509), free_stack>;

constexpr std::size_t kMaxPemBytes = std::size_t{1} << 20;

// OpenSSL queues errors per thread; one left behind would be blamed on the next call.
Problem openssl_problem(std::string doing, std::string cure = {}) {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
  return Problem{std::move(doing) + (reason != nullptr ? ": " + std::string(reason) : ""),
                 std::move(cure)};
}

Outcome<OwnedBio> open_text(std::string_view text, std::string_view name) {
  if (text.size() > kMaxPemBytes) {
    return Problem{std::string(name) + ": larger than " + std::to_string(kMaxPemBytes) + " bytes"};
  }
  OwnedBio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  POSTERN_CHECK(bio != nullptr);
  return bio;
}

enum class Kind : std::uint8_t { kRsa, kP256, kEd25519 };

Outcome<Kind> kind_of(const EVP_PKEY* key, std::string_view name) {
  const int bits = EVP_PKEY_get_bits(key);
  switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_ED25519:
      return Kind::kEd25519;
    case EVP_PKEY_RSA:
      if (bits < 2048 || bits > 16384) {
        return Problem{std::string(name) + ": an RSA key of " + std::to_string(bits) + " bits",
                       "use a key of 2048 to 16384 bits"};
      }
      return Kind::kRsa;
    case EVP_PKEY_EC: {
      std::array<char, 64> group{};
      std::size_t length = 0;
      if (EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) == 1 &&
          std::string_view(group.data()) == SN_X9_62_prime256v1) {
        return Kind::kP256;
      }
      return Problem{std::string(name) + ": an ECDSA key on a curve other than P-256",
                     "use a P-256, Ed25519 or RSA key"};
    }
    default:
      return Problem{std::string(name) + ": a kind of key that cannot sign images",
                     "use an Ed25519, P-256 or RSA key"};
  }
}

// ---- the SSH wire encoding (RFC 4253 §6.6, RFC 5656, RFC 8709), which DSSE's keyid hashes

void put_string(std::string& out, std::string_view text) {
  for (int shift = 24; shift >= 0; shift -= 8) {
    out += static_cast<char>(text.size() >> static_cast<unsigned>(shift) & 0xff);
  }
  out += text;
}

std::string number(const EVP_PKEY* key, const char* parameter, std::size_t fixed_bytes) {
  BIGNUM* raw = nullptr;
  EVP_PKEY_get_bn_param(key, parameter, &raw);
  const Owned<BIGNUM, BN_free> value(raw);
  POSTERN_CHECK(value != nullptr);
  const auto used = static_cast<std::size_t>(BN_num_bytes(value.get()));
  const std::size_t bytes = std::max(used, fixed_bytes);
  std::string out(bytes, '\0');
  // SAFETY: char and unsigned char have the same representation.
  POSTERN_CHECK(BN_bn2binpad(value.get(), reinterpret_cast<unsigned char*>(out.data()),
                             static_cast<int>(bytes)) >= 0);
  return out;
}

void put_mpint(std::string& out, std::string digits) {
  if (!digits.empty() && (static_cast<unsigned char>(digits[0]) & 0x80U) != 0) {
    digits.insert(digits.begin(), '\0');  // it is positive
  }
  put_string(out, digits);
}

std::string ssh_blob(const EVP_PKEY* key, Kind kind) {
  std::string out;
  switch (kind) {
    case Kind::kRsa:
      put_string(out, "ssh-rsa");
      put_mpint(out, number(key, OSSL_PKEY_PARAM_RSA_E, 0));
      put_mpint(out, number(key, OSSL_PKEY_PARAM_RSA_N, 0));
      break;
    case Kind::kP256:
      put_string(out, "ecdsa-sha2-nistp256");
      put_string(out, "nistp256");
      put_string(out, "\x04" + number(key, OSSL_PKEY_PARAM_EC_PUB_X, 32) +
                          number(key, OSSL_PKEY_PARAM_EC_PUB_Y, 32));
      break;
    case Kind::kEd25519: {
      std::array<std::uint8_t, 32> raw{};
      std::size_t length = raw.size();
      POSTERN_CHECK(EVP_PKEY_get_raw_public_key(key, raw.data(), &length) == 1);
      put_string(out, "ssh-ed25519");
      put_string(out, std::string(raw.begin(), raw.end()));
      break;
    }
  }
  return out;
}

std::string ssh_id_of(const EVP_PKEY* key, Kind kind) {
  const Digest digest = digest_of(Algorithm::kSha256, ssh_blob(key, kind));
  std::string text = text::encode_base64(std::span(digest.bytes).first(32));
  while (text.ends_with('=')) {
    text.pop_back();
  }
  return "SHA256:" + text;
}

template <class T>
std::string sha256_of_der(const T* object, int (*encode)(const T*, unsigned char**)) {
  unsigned char* der = nullptr;
  const int bytes = encode(object, &der);
  POSTERN_CHECK(bytes > 0);
  const Digest digest = digest_of(
      Algorithm::kSha256, std::span<const std::uint8_t>(der, static_cast<std::size_t>(bytes)));
  OPENSSL_free(der);
  return digest_text(digest);
}

const EVP_MD* message_digest(const EVP_PKEY* key) {
  return EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? nullptr : EVP_sha256();
}

// pem_password_cb: the passphrase is asked for when OpenSSL finds the file encrypted.
int give_passphrase(char* buffer, int size, int /*writing*/, void* context) {
  const auto* ask = static_cast<const PrivateKey::Passphrase*>(context);
  std::optional<std::string> text = *ask ? (*ask)() : std::nullopt;
  if (!text || size < 0 || text->size() > static_cast<std::size_t>(size)) {
    return -1;
  }
  std::copy(text->begin(), text->end(), buffer);
  const int used = static_cast<int>(text->size());
  OPENSSL_cleanse(text->data(), text->size());
  return used;
}

// ---- certificates

Outcome<OwnedStack> read_certificates(std::string_view pem, std::string_view name) {
  POSTERN_TRY_ASSIGN(const OwnedBio bio, open_text(pem, name));
  OwnedStack out(sk_X509_new_null());
  POSTERN_CHECK(out != nullptr);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    sk_X509_push(out.get(), certificate);
  }
  ERR_clear_error();  // the end of the text is reported as an error
  return out;
}

bool may_sign_code(X509* certificate, bool needs_extension) {
  const std::uint32_t usage = X509_get_extended_key_usage(certificate);
  if ((X509_get_extension_flags(certificate) & EXFLAG_XKUSAGE) == 0) {
    return !needs_extension;
  }
  return (usage & (XKU_CODE_SIGN | XKU_ANYEKU)) != 0;
}

std::string subject_of(X509* certificate) {
  std::array<char, 512> line{};
  X509_NAME_oneline(X509_get_subject_name(certificate), line.data(), static_cast<int>(line.size()));
  return line.data();
}

Outcome<Ok> add_roots(X509_STORE* store, std::string_view roots, std::string_view name) {
  if (roots.empty()) {
    return X509_STORE_set_default_paths(store) == 1
               ? Outcome<Ok>(Ok{})
               : Outcome<Ok>(openssl_problem("loading the system's trusted certificates"));
  }
  POSTERN_TRY_ASSIGN(const OwnedStack list, read_certificates(roots, name));
  if (sk_X509_num(list.get()) == 0) {
    return Problem{"no certificate in the roots given for " + std::string(name)};
  }
  for (int i = 0; i < sk_X509_num(list.get()); ++i) {
    X509_STORE_add_cert(store, sk_X509_value(list.get(), i));
  }
  return Ok{};
}

Outcome<Ok> judge_chain(X509_STORE_CTX* context,
                        std::string_view name,
                        const RevocationCheck& revocation) {
  STACK_OF(X509)* chain = X509_STORE_CTX_get0_chain(context);
  std::vector<std::string> der;
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    X509* certificate = sk_X509_value(chain, i);
    const bool leaf = i == 0;
    const bool root = i == sk_X509_num(chain) - 1;
    if (!root && !may_sign_code(certificate, leaf)) {
      return Problem{
          std::string(name) + ": '" + subject_of(certificate) + "' may not be used to sign code",
          "use a certificate with the extended key usage 'codeSigning'"};
    }
    unsigned char* bytes = nullptr;
    const int length = i2d_X509(certificate, &bytes);
    POSTERN_CHECK(length > 0);
    der.emplace_back(bytes, bytes + length);
    OPENSSL_free(bytes);
  }
  return revocation ? revocation(der) : Outcome<Ok>(Ok{});
}

}  // namespace

Outcome<PublicKey> PublicKey::from_key(evp_pkey_st* key, std::string_view name) {
  PublicKey out;
  out.key_ = std::shared_ptr<EVP_PKEY>(key, EVP_PKEY_free);
  out.name_ = name;
  POSTERN_TRY_ASSIGN(const Kind kind, kind_of(key, name));
  out.ssh_id_ = ssh_id_of(key, kind);
  out.identities_.push_back(sha256_of_der<EVP_PKEY>(key, i2d_PUBKEY));
  return out;
}

Outcome<PublicKey> PublicKey::from_pem(std::string_view pem, std::string_view name) {
  POSTERN_TRY_ASSIGN(const OwnedBio bio, open_text(pem, name));
  char* label = nullptr;
  char* header = nullptr;
  unsigned char* data = nullptr;
  long length = 0;
  if (PEM_read_bio(bio.get(), &label, &header, &data, &length) != 1) {
    return openssl_problem(std::string(name) + ": not a PEM file");
  }
  const std::string kind(label);
  const unsigned char* at = data;
  EVP_PKEY* key = nullptr;
  if (kind == PEM_STRING_PUBLIC) {
    key = d2i_PUBKEY(nullptr, &at, length);
  } else if (kind == PEM_STRING_RSA_PUBLIC) {
    key = d2i_PublicKey(EVP_PKEY_RSA, nullptr, &at, length);
  }
  OPENSSL_free(label);
  OPENSSL_free(header);
  OPENSSL_clear_free(data, static_cast<std::size_t>(length));
  if (key == nullptr) {
    return openssl_problem(std::string(name) + ": no public key in a PEM block '" + kind + "'",
                           kind == PEM_STRING_X509 ? "use --certificate for a certificate" : "");
  }
  return from_key(key, name);
}

bool PublicKey::verify(std::string_view message, std::span<const std::uint8_t> signature) const {
  const Owned<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  POSTERN_CHECK(context != nullptr);
  // SAFETY: char and unsigned char have the same representation.
  const bool good =
      EVP_DigestVerifyInit(context.get(), nullptr, message_digest(key_.get()), nullptr,
                           key_.get()) == 1 &&
      EVP_DigestVerify(context.get(), signature.data(), signature.size(),
                       reinterpret_cast<const unsigned char*>(message.data()), message.size()) == 1;
  ERR_clear_error();
  return good;
}

Outcome<PrivateKey> PrivateKey::from_pem(std::string_view pem,
                                         std::string_view name,
                                         const Passphrase& ask) {
  POSTERN_TRY_ASSIGN(const OwnedBio bio, open_text(pem, name));
  // SAFETY: OpenSSL hands the pointer back to give_passphrase only, which casts it back to const.
  void* context = const_cast<Passphrase*>(&ask);
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio.get(), nullptr, give_passphrase, context);
  if (key == nullptr) {
    const bool sigstore = pem.find("ENCRYPTED SIGSTORE") != std::string_view::npos ||
                          pem.find("ENCRYPTED COSIGN") != std::string_view::npos;
    return openssl_problem(std::string(name) + ": cannot read a private key",
                           sigstore ? "keys encrypted by cosign must be exported as PKCS#8 first"
                                    : "check the file and the passphrase");
  }
  PrivateKey out;
  out.key_ = std::shared_ptr<EVP_PKEY>(key, EVP_PKEY_free);
  EVP_PKEY_up_ref(key);
  POSTERN_TRY_ASSIGN(out.public_, PublicKey::from_key(key, name));
  return out;
}

Outcome<std::vector<std::uint8_t>> PrivateKey::sign(std::string_view message) const {
  const Owned<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  POSTERN_CHECK(context != nullptr);
  // SAFETY: char and unsigned char have the same representation.
  const auto* bytes = reinterpret_cast<const unsigned char*>(message.data());
  std::size_t length = 0;
  if (EVP_DigestSignInit(context.get(), nullptr, message_digest(key_.get()), nullptr, key_.get()) !=
          1 ||
      EVP_DigestSign(context.get(), nullptr, &length, bytes, message.size()) != 1) {
    return openssl_problem("signing");
  }
  std::vector<std::uint8_t> out(length);
  if (EVP_DigestSign(context.get(), out.data(), &length, bytes, message.size()) != 1) {
    return openssl_problem("signing");
  }
  out.resize(length);
  return out;
}

namespace {

Outcome<X509*> first_of(const OwnedStack& certificates) {
  if (sk_X509_num(certificates.get()) == 0) {
    return Problem{"no certificate in it"};
  }
  return sk_X509_value(certificates.get(), 0);
}

}  // namespace

Outcome<PublicKey> key_of_certificate(const CertificateFiles& files,
                                      std::string_view name,
                                      const RevocationCheck& revocation) {
  POSTERN_TRY_ASSIGN(const OwnedStack leaves, read_certificates(files.leaf, name));
  if (sk_X509_num(leaves.get()) == 0) {
    return Problem{std::string(name) + ": no certificate in it"};
  }
  X509* leaf = sk_X509_value(leaves.get(), 0);
  POSTERN_TRY_ASSIGN(const OwnedStack intermediates, read_certificates(files.intermediates, name));
  const Owned<X509_STORE, X509_STORE_free> store(X509_STORE_new());
  const Owned<X509_STORE_CTX, X509_STORE_CTX_free> context(X509_STORE_CTX_new());
  POSTERN_CHECK(store != nullptr && context != nullptr);
  POSTERN_TRY(add_roots(store.get(), files.roots, name));
  if (X509_STORE_CTX_init(context.get(), store.get(), leaf, intermediates.get()) != 1) {
    return openssl_problem("verifying the certificate");
  }
  if (X509_verify_cert(context.get()) != 1) {
    const int error = X509_STORE_CTX_get_error(context.get());
    ERR_clear_error();
    return Problem{
        std::string(name) + ": certificate not accepted: " + X509_verify_cert_error_string(error),
        "give the missing certificates with --certificate-intermediates or --certificate-roots"};
  }
  POSTERN_TRY(judge_chain(context.get(), name, revocation));
  EVP_PKEY* key = X509_get_pubkey(leaf);
  if (key == nullptr) {
    return openssl_problem(std::string(name) + ": the certificate's key cannot be used");
  }
  POSTERN_TRY_ASSIGN(PublicKey out, PublicKey::from_key(key, name));
  out.add_identity(sha256_of_der<X509>(leaf, i2d_X509));
  return out;
}

Outcome<bool> certificate_is_out_of_date(std::string_view pem) {
  POSTERN_TRY_ASSIGN(const OwnedStack list, read_certificates(pem, "the certificate"));
  POSTERN_TRY_ASSIGN(const X509* first, first_of(list));
  return X509_cmp_current_time(X509_get0_notBefore(first)) >= 0 ||
         X509_cmp_current_time(X509_get0_notAfter(first)) <= 0;
}

Outcome<std::string> certificate_fingerprint(std::string_view pem) {
  POSTERN_TRY_ASSIGN(const OwnedStack list, read_certificates(pem, "the certificate"));
  POSTERN_TRY_ASSIGN(X509 * first, first_of(list));
  return sha256_of_der<X509>(first, i2d_X509).substr(std::string_view("sha256:").size());
}

}  // namespace postern::signature
