// Removing a directory with all that is in it.
#pragma once

#include <string>

#include "policy/problem.h"

namespace postern::imagebuild {

// Makes directories accessible on the way, so that what an image closed to its owner goes too.
// Follows no links and crosses no mounts (a mount point is an error). Paths may be longer than
// PATH_MAX. `directory` is an open directory (borrowed), `name` one in it.
Outcome<> remove_tree(int directory, const std::string& name);

}  // namespace postern::imagebuild
