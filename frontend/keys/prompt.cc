#include "frontend/keys/prompt.h"

#include <array>

#include <string.h>

#include "frontend/message/ask.h"

namespace postern::keys {
namespace {

Outcome<std::string> question(const std::string& prompt, bool secret) {
  std::array<std::byte, 4096> answer{};
  POSTERN_TRY_ASSIGN(const std::size_t size, message::ask_line(prompt, secret, answer));
  // SAFETY: bytes, as characters.
  std::string text(reinterpret_cast<const char*>(answer.data()), size);
  ::explicit_bzero(answer.data(), answer.size());
  return text;
}

}  // namespace

Outcome<std::string> ask(const std::string& prompt) {
  return question(prompt, false);
}

Outcome<std::string> ask_secret(const std::string& prompt) {
  return question(prompt, true);
}

Outcome<bool> ask_yes(const std::string& prompt) {
  const Outcome<std::string> answer = ask(prompt);
  if (!answer) {
    return answer.error();
  }
  return *answer == "y" || *answer == "Y";
}

Outcome<std::string> ask_new_passphrase() {
  for (int attempt = 0; attempt < 3; ++attempt) {
    POSTERN_TRY_ASSIGN(const std::string first,
                       ask_secret("Enter your passphrase (empty: none): "));
    POSTERN_TRY_ASSIGN(const std::string second, ask_secret("Retype your passphrase: "));
    if (first != second) {
      continue;
    }
    if (!first.empty()) {
      return first;
    }
    POSTERN_TRY_ASSIGN(const bool sure,
                       ask_yes("Really store the secret key without a passphrase? [y/N] "));
    if (sure) {
      return first;
    }
  }
  return Problem{"no passphrase after three attempts"};
}

}  // namespace postern::keys
