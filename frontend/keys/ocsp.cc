#include "frontend/keys/ocsp.h"

#include "frontend/keys/hkp.h"
#include "frontend/keys/ocsp_question.h"

namespace postern::keys {

Outcome<Ok> check_ocsp(const std::vector<std::string>& chain) {
  constexpr unsigned kTimeoutSeconds = 15;
  for (std::size_t i = 0; i + 1 < chain.size(); ++i) {
    POSTERN_TRY_ASSIGN(const OcspQuestion question, OcspQuestion::about(chain[i], chain[i + 1]));
    POSTERN_TRY_ASSIGN(const std::string address, question.responder());
    POSTERN_TRY_ASSIGN(const std::string body, question.request());
    const auto answer = post(address, "application/ocsp-request", body, kTimeoutSeconds);
    if (!answer) {
      return Problem{"asking whether a certificate has been revoked: " + answer.error().what};
    }
    POSTERN_TRY(question.check(*answer));
  }
  return Ok{};
}

}  // namespace postern::keys
