// Answers of OCSP responders. The question is about a certificate of a chain made at the start.
#include <memory>
#include <string>
#include <string_view>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "frontend/keys/ocsp_question.h"
#include "fuzz/target.h"

namespace {

// A certificate of `subject`, signed by the key of `issuer`. DER.
std::string certificate(const char* subject, const char* issuer, EVP_PKEY* key) {
  const std::unique_ptr<X509, decltype(&X509_free)> made(X509_new(), X509_free);
  const auto name = [](const char* text) {
    X509_NAME* out = X509_NAME_new();
    // SAFETY: characters, as bytes.
    X509_NAME_add_entry_by_txt(out, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(text), -1, -1, 0);
    return std::unique_ptr<X509_NAME, decltype(&X509_NAME_free)>(out, X509_NAME_free);
  };
  X509_set_version(made.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), 1);
  X509_set_subject_name(made.get(), name(subject).get());
  X509_set_issuer_name(made.get(), name(issuer).get());
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
  X509_set_pubkey(made.get(), key);
  X509_sign(made.get(), key, nullptr);
  unsigned char* der = nullptr;
  const int bytes = i2d_X509(made.get(), &der);
  std::string out(der, der + bytes);
  OPENSSL_free(der);
  return out;
}

postern::keys::OcspQuestion make_question() {
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"), EVP_PKEY_free);
  auto question = postern::keys::OcspQuestion::about(certificate("leaf", "root", key.get()),
                                                     certificate("root", "root", key.get()));
  if (!question || question->responder() || !question->request()) {
    __builtin_trap();
  }
  return *std::move(question);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const postern::keys::OcspQuestion question = make_question();
  // The issuer's key is gone: nothing can be a good answer.
  if (question.check({reinterpret_cast<const char*>(data), size})) {
    __builtin_trap();
  }
  static_cast<void>(
      postern::keys::OcspQuestion::about({data, data + size}, {data, data + size}).has_value());
  return 0;
}
