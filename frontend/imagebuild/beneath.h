// Opening paths below a directory of which no component may be a symbolic link.
#pragma once

#include <string>

#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {

// `path` is relative to `root`, may be empty (the root itself) and longer than PATH_MAX. `flags` as
// for open(2); close-on-exec is added. Invalid with errno set on failure.
UniqueFd open_beneath(int root, const std::string& path, int flags, unsigned mode = 0);

// "a/b/c" to "a/b" and "c".
std::string parent_of(const std::string& path);
std::string name_of(const std::string& path);

}  // namespace postern::imagebuild
