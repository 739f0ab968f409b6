// Asking for a passphrase.
#pragma once

#include <string>

#include "policy/crypt/luks_header.h"
#include "policy/problem.h"

namespace postern::crypt {

inline constexpr std::size_t kMaxPassphraseBytes = 4096;

// A line from the terminal, without echo, or from standard input if that is none
// (message::ask_line).
Outcome<SecretBytes> prompt_secret(const std::string& prompt);

}  // namespace postern::crypt
