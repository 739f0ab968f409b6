// Policy files are read whole, bounded, and through one descriptor.
#pragma once

#include <optional>
#include <string>

#include "policy/problem.h"

namespace postern::config {

// Far above any real policy file; a bound on what a mistake can make us parse.
inline constexpr std::size_t kMaxConfigBytes = 1024 * 1024;

// The file at `path`; nothing where it does not exist. Problem: it cannot be opened or read, is not
// a regular file, or is larger than kMaxConfigBytes.
[[nodiscard]] Outcome<std::optional<std::string>> read_file(const std::string& path);

// All that is left to read from an open file; `name` is for messages.
[[nodiscard]] Outcome<std::string> read_all(int file, const std::string& name);

}  // namespace postern::config
