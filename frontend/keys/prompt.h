// Questions to the user. On the terminal where there is one, else on standard input, so that
// scripts can answer them; prompts go to standard error.
#pragma once

#include <string>

#include "policy/problem.h"

namespace postern::keys {

// One line. Error: no answer (end of input).
Outcome<std::string> ask(const std::string& prompt);
// … without echo.
Outcome<std::string> ask_secret(const std::string& prompt);
// Twice, at most three times; an empty one only if the user insists.
Outcome<std::string> ask_new_passphrase();
// "y" or "Y".
Outcome<bool> ask_yes(const std::string& prompt);

}  // namespace postern::keys
