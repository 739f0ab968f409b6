// Writing a configuration file so that readers see the old one or the new one, never a part.
#pragma once

#include <string>
#include <string_view>

#include "policy/problem.h"

namespace postern::system {

// Written without a name, synced, and put in the place of `path`. Problem: what could not be
// written, with the cure if the caller lacks the right.
[[nodiscard]] Outcome<> replace_file(const std::string& path,
                                     std::string_view text,
                                     unsigned mode = 0644);

}  // namespace postern::system
