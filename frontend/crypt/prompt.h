// Asking for a secret on the controlling terminal.
#pragma once

#include <string>

#include "policy/crypt/luks_header.h"
#include "policy/problem.h"

namespace postern::crypt {

inline constexpr std::size_t kMaxPassphraseBytes = 4096;

// Shows `prompt` on /dev/tty and reads a line from it without echo; the line end is not part of the
// secret. The terminal is put back also when a signal ends the program. Error: no controlling
// terminal.
Outcome<SecretBytes> prompt_secret(const std::string& prompt);

}  // namespace postern::crypt
