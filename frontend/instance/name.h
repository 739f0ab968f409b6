// Names of instances.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "policy/problem.h"

namespace postern::instance {

// A name is part of names of files: letters, digits, ".", "_" and "-", no "." first.
Outcome<> check_name(std::string_view name);

// "instance://NAME" where an image is expected: the name, not checked.
std::optional<std::string> name_in(std::string_view image);

// fnmatch(3): "*", "?", "[…]".
bool matches(const std::string& pattern, const std::string& name);

}  // namespace postern::instance
