// A command of one table of options: its help text, its usage errors, its operands.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "frontend/option/option.h"

namespace postern::option {

// How a command is used, for --help and after a usage error.
struct Usage {
  std::string_view name;      // "key import"
  std::string_view operands;  // "[options] FILE"
  std::string_view summary;
  std::span<const Option> options;
  CommandSet commands;
  std::size_t least = 0;  // operands
  std::size_t most = 0;
};

// Parses the words behind the command's name; prints help or a usage error itself, and then returns
// the exit status to end with as the error.
Result<Arguments, int> parse_command(const Usage& usage, std::span<const std::string> words);

}  // namespace postern::option
