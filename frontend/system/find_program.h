// Programs of other projects, by their names.
#pragma once

#include <string>

namespace postern::system {

// The path of a program: where execvp(3) would find it, or else in the directories of the system,
// which a user's PATH may lack. With a slash, the name is the path. "": there is none. What is
// found runs with no more rights than the caller has.
[[nodiscard]] std::string find_program(const std::string& name);

}  // namespace postern::system
