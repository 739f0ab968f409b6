// The commands of postern-keys. Words after the command's name; the exit status is returned.
#pragma once

#include <span>
#include <string>

#include "frontend/option/usage.h"
#include "policy/problem.h"
#include "policy/text/printable.h"

namespace postern::keys {

int key_command(std::span<const std::string> words);
int sign_command(std::span<const std::string> words);
int seal_command(std::span<const std::string> words);
int verify_command(std::span<const std::string> words);
int ecl_command(std::span<const std::string> words);

using option::parse_command;
using option::Usage;

// Prints the problem; returns its exit status, or `exit_code` where that is not 0.
int fail(const Problem& problem, int exit_code = 0);

// A decimal number of 32 bits from a list of an option's values.
Outcome<std::vector<std::uint32_t>> numbers_of(const std::vector<std::string>& values,
                                               std::string_view what);

// "2019-11-15 09:54:54 -0600 CST", local time.
std::string time_text(std::int64_t unix_seconds);

// Control characters as \xNN: names come from keys and images.
using text::printable;

}  // namespace postern::keys
