// `postern instance list`, `stop` and `stats`; `start` and `run` are actions (cli/action.cc).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <sys/types.h>

#include "frontend/option/option.h"
#include "policy/problem.h"

namespace postern::instance {

// `verb` is list, stop or stats, and `words` what follows it. Prints problems itself; returns the
// exit status.
int command(std::string_view verb, std::span<const std::string> words);

// Of all commands here, for --help.
std::span<const option::Option> command_options();

// --- the three commands
Outcome<int> list(const option::Arguments& arguments, uid_t owner);
Outcome<int> stop(const option::Arguments& arguments, uid_t owner);
Outcome<int> stats(const option::Arguments& arguments, uid_t owner);

}  // namespace postern::instance
