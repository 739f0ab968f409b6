// What is asked of a path of the host, with the caller's rights.
#pragma once

#include <cstddef>
#include <string>

#include <sys/types.h>

#include "policy/problem.h"

namespace postern::plan {

bool is_directory(const std::string& path);
bool exists(const std::string& path);
bool is_own(const std::string& path);

// The path with every symbolic link followed, or the path itself if that fails.
std::string resolved(const std::string& path);

// mkdir -p; the last component gets `mode` (with the sticky bit, past the umask). What lies below
// the first `named` bytes, which the user named, must be the caller's own.
Outcome<> make_directory(const std::string& path, mode_t mode, std::size_t named);

}  // namespace postern::plan
