// Directories in which root may work by name.
#pragma once

#include <string>

#include "policy/problem.h"

namespace postern::system {

// For root of the host: an error if another user could exchange what lies in `path` (a directory
// that is there) while it is used, because the directory or one above it belongs to that user or is
// writable by others without the sticky bit. For all others: no error; what they can lose is
// theirs.
Outcome<> check_safe_directory(const std::string& path);

// The same for a path that may not be there yet, or not all of it.
Outcome<> check_safe_to_make(const std::string& path);

}  // namespace postern::system
