// Descriptors that a start hands over.
#pragma once

#include <string_view>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::system {

// `bytes` in a sealed memfd (memfd_create(2)), close-on-exec. `name` is seen in /proc only.
Outcome<UniqueFd> make_content_fd(const char* name, std::string_view bytes);

}  // namespace postern::system
