// Files without a name, for what is needed only while this process runs.
#pragma once

#include <string>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::system {

// In `directory`, open for reading and writing; gone with its last descriptor.
[[nodiscard]] Outcome<UniqueFd> scratch_file(const std::string& directory);

// What to say if it cannot be made or written.
[[nodiscard]] Problem scratch_problem(const std::string& directory, int err);

}  // namespace postern::system
