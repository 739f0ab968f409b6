// The file that a user gets: under its name whole, or not at all.
#pragma once

#include <string>

#include "policy/problem.h"

namespace postern::transfer {

// Copies the file `from` to `path`, replacing what is there in one step; mode 0777 less the umask.
Outcome<> copy_out(int from, const std::string& path);

}  // namespace postern::transfer
