// A word about secret keys that others can read.
#pragma once

#include <string>
#include <string_view>

namespace postern::message {

// Warns if `text`, which was read from the open file `fd`, holds a private key in the clear (PEM)
// and the file is open to others than its owner: the caller, or root.
void warn_if_exposed(int fd, const std::string& path, std::string_view text);

}  // namespace postern::message
