// Commands of commands: "registry login", "remote add".
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/option/usage.h"
#include "policy/problem.h"

namespace postern::transfer {

struct SubCommand {
  std::string_view name;
  std::string_view operands;
  std::string_view summary;
  option::CommandSet options;
  std::size_t least;
  std::size_t most;
  Outcome<> (*act)(const option::Arguments& arguments);
};

// Finds the sub-command that `words` begins with and runs it; prints help and usage errors itself.
int run_sub_command(std::string_view command,
                    std::string_view summary,
                    std::span<const option::Option> options,
                    std::span<const SubCommand> known,
                    std::span<const std::string> words);

// An empty line, then columns with two spaces between, on standard output.
void print_table(std::vector<std::vector<std::string>> rows);

}  // namespace postern::transfer
