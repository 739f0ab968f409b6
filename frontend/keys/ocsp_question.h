// One question to an OCSP responder and what its answer says (RFC 6960). No network.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "policy/problem.h"

namespace postern::keys {

class OcspQuestion {
 public:
  // Whether `certificate` is still good, asked of whom `issuer` trusts. DER.
  static Outcome<OcspQuestion> about(const std::string& certificate, const std::string& issuer);

  OcspQuestion(OcspQuestion&&) noexcept;
  ~OcspQuestion();

  // The address that the certificate names.
  [[nodiscard]] Outcome<std::string> responder() const;
  // What is sent there. DER.
  [[nodiscard]] Outcome<std::string> request() const;
  // Error: anything but a fresh, signed answer "good" to this question.
  [[nodiscard]] Outcome<Ok> check(std::string_view answer) const;

 private:
  struct State;
  explicit OcspQuestion(std::unique_ptr<State> state) noexcept;

  std::unique_ptr<State> state_;
};

}  // namespace postern::keys
