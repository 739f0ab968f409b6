// Programs whose first word names a command.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "policy/problem.h"

namespace postern::option {

struct Command {
  std::string_view name;
  int (*run)(std::span<const std::string> words);
};

// Runs the one of `commands` that argv[1] names, with the words behind it. Any other name prints
// `usage`. Returns the exit status.
int run_command(std::span<const Command> commands, const char* usage, int argc, char** argv);

// The exit status of a command that has ended so. What failed is said, with `usage` behind it if it
// was the command line.
int exit_status(const Outcome<int>& result, const char* usage);

}  // namespace postern::option
