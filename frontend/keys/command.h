// The commands of postern-keys. Words after the command's name; the exit status is returned.
#pragma once

#include <span>
#include <string>

#include "frontend/cli/option.h"
#include "policy/problem.h"

namespace postern::keys {

int key_command(std::span<const std::string> words);
int sign_command(std::span<const std::string> words);
int seal_command(std::span<const std::string> words);
int verify_command(std::span<const std::string> words);
int ecl_command(std::span<const std::string> words);

// How a command is used, for --help and after a usage error.
struct Usage {
  std::string_view name;      // "key import"
  std::string_view operands;  // "[options] FILE"
  std::string_view summary;
  std::span<const cli::Option> options;
  cli::CommandSet commands;
  std::size_t least = 0;  // operands
  std::size_t most = 0;
};

// Parses the words; prints help or a usage error itself, and then returns the exit status to end
// with as the error.
Result<cli::Arguments, int> parse_command(const Usage& usage, std::span<const std::string> words);

// Prints the problem; returns its exit status, or `exit_code` where that is not 0.
int fail(const Problem& problem, int exit_code = 0);

// A decimal number of 32 bits from a list of an option's values.
Outcome<std::vector<std::uint32_t>> numbers_of(const std::vector<std::string>& values,
                                               std::string_view what);

// "2019-11-15 09:54:54 -0600 CST", local time.
std::string time_text(std::int64_t unix_seconds);

// Control characters as \xNN: names come from keys and images.
std::string printable(std::string_view text);

}  // namespace postern::keys
