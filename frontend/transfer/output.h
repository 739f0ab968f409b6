// The file that a user gets: under its name whole, or not at all.
#pragma once

#include <cstdint>
#include <string>

#include "policy/problem.h"

namespace postern::transfer {

// Copies the file `from` to `path`, replacing what is there in one step; mode 0777 less the umask.
Outcome<> copy_out(int from, const std::string& path);

// "24.95 MiB": two decimals, as Apptainer prints them.
std::string size_text(std::uint64_t bytes);

}  // namespace postern::transfer
