#include "frontend/crypt/prompt.h"

#include "frontend/message/ask.h"

namespace postern::crypt {

Outcome<SecretBytes> prompt_secret(const std::string& prompt) {
  SecretBytes secret(kMaxPassphraseBytes);
  const auto size = message::ask_line(prompt, /*secret=*/true, secret.bytes());
  if (!size) {
    return Problem{
        .what = "a passphrase is needed, and no terminal and no line of standard input gave one",
        .cure = "give it with --passphrase-fd, --passphrase-file or --key-command"};
  }
  secret.truncate(*size);
  return secret;
}

}  // namespace postern::crypt
