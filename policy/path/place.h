// Where a configured path leads on this host. Rules about paths are decided on the place that the
// kernel reached, never on the text.
#pragma once

#include <string>
#include <vector>

namespace postern::path {

// Each directory by the name that the kernel gives it (realpath(3)): without links, doubled slashes
// and a slash at the end. One that does not exist holds nothing and is left out.
[[nodiscard]] std::vector<std::string> places_of(const std::vector<std::string>& directories);

}  // namespace postern::path
