#include "frontend/keys/ocsp_question.h"

#include <utility>

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>

#include "policy/signature/owned.h"

namespace postern::keys {
namespace {

using signature::Owned;

void free_addresses(STACK_OF(OPENSSL_STRING) * list) {
  X509_email_free(list);
}

void free_borrowed(STACK_OF(X509) * list) {
  sk_X509_free(list);
}

using Certificate = Owned<X509, X509_free>;

constexpr long kClockSkewSeconds = 300;

Certificate decode(const std::string& der) {
  // SAFETY: char and unsigned char have the same representation.
  const auto* at = reinterpret_cast<const unsigned char*>(der.data());
  return Certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
}

Outcome<std::string> responder_of(X509* certificate) {
  const Owned<STACK_OF(OPENSSL_STRING), free_addresses> list(X509_get1_ocsp(certificate));
  if (list == nullptr || sk_OPENSSL_STRING_num(list.get()) < 1) {
    return Problem{"a certificate names no OCSP responder", "verify without --ocsp-verify"};
  }
  return std::string(sk_OPENSSL_STRING_value(list.get(), 0));
}

Outcome<Ok> judge(OCSP_RESPONSE* response, OCSP_REQUEST* request, OCSP_CERTID* id, X509* issuer) {
  if (response == nullptr || OCSP_response_status(response) != OCSP_RESPONSE_STATUS_SUCCESSFUL) {
    return Problem{"the OCSP responder did not answer with a status"};
  }
  const Owned<OCSP_BASICRESP, OCSP_BASICRESP_free> basic(OCSP_response_get1_basic(response));
  const Owned<X509_STORE, X509_STORE_free> store(X509_STORE_new());
  const Owned<STACK_OF(X509), free_borrowed> issuers(sk_X509_new_null());
  sk_X509_push(issuers.get(), issuer);
  X509_STORE_add_cert(store.get(), issuer);
  // The issuer itself, or one whom it delegated to, must have signed the answer; the chain above
  // the issuer has been verified already.
  X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN);
  if (basic == nullptr || OCSP_basic_verify(basic.get(), issuers.get(), store.get(), 0) != 1) {
    ERR_clear_error();
    return Problem{"the OCSP answer is not signed by the certificate's issuer"};
  }
  if (OCSP_check_nonce(request, basic.get()) == 0) {
    return Problem{"the OCSP answer is for another question"};
  }
  int status = -1;
  ASN1_GENERALIZEDTIME* since = nullptr;
  ASN1_GENERALIZEDTIME* until = nullptr;
  if (OCSP_resp_find_status(basic.get(), id, &status, nullptr, nullptr, &since, &until) != 1 ||
      OCSP_check_validity(since, until, kClockSkewSeconds, -1) != 1) {
    ERR_clear_error();
    return Problem{"the OCSP answer is not about this certificate, or out of date"};
  }
  if (status != V_OCSP_CERTSTATUS_GOOD) {
    return Problem{std::string("the certificate is ") + OCSP_cert_status_str(status)};
  }
  return Ok{};
}

}  // namespace

struct OcspQuestion::State {
  Certificate certificate;
  Certificate issuer;
  Owned<OCSP_REQUEST, OCSP_REQUEST_free> request;
  OCSP_CERTID* id = nullptr;  // the request's
};

OcspQuestion::OcspQuestion(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}

OcspQuestion::OcspQuestion(OcspQuestion&&) noexcept = default;
OcspQuestion::~OcspQuestion() = default;

Outcome<OcspQuestion> OcspQuestion::about(const std::string& certificate,
                                          const std::string& issuer) {
  auto state = std::make_unique<State>();
  state->certificate = decode(certificate);
  state->issuer = decode(issuer);
  if (state->certificate == nullptr || state->issuer == nullptr) {
    return Problem{"a certificate cannot be read"};
  }
  state->request.reset(OCSP_REQUEST_new());
  state->id = OCSP_cert_to_id(nullptr, state->certificate.get(), state->issuer.get());
  if (state->request == nullptr || state->id == nullptr ||
      OCSP_request_add0_id(state->request.get(), state->id) == nullptr) {
    OCSP_CERTID_free(state->id);
    return Problem{"the OCSP request cannot be made"};
  }
  OCSP_request_add1_nonce(state->request.get(), nullptr, -1);
  return OcspQuestion(std::move(state));
}

Outcome<std::string> OcspQuestion::responder() const {
  return responder_of(state_->certificate.get());
}

Outcome<std::string> OcspQuestion::request() const {
  unsigned char* der = nullptr;
  const int bytes = i2d_OCSP_REQUEST(state_->request.get(), &der);
  if (bytes <= 0) {
    return Problem{"the OCSP request cannot be made"};
  }
  std::string body(der, der + bytes);
  OPENSSL_free(der);
  return body;
}

Outcome<Ok> OcspQuestion::check(std::string_view answer) const {
  // SAFETY: char and unsigned char have the same representation.
  const auto* at = reinterpret_cast<const unsigned char*>(answer.data());
  const Owned<OCSP_RESPONSE, OCSP_RESPONSE_free> response(
      d2i_OCSP_RESPONSE(nullptr, &at, static_cast<long>(answer.size())));
  return judge(response.get(), state_->request.get(), state_->id, state_->issuer.get());
}

}  // namespace postern::keys
