// Text that a character parts.
#pragma once

#include <string_view>
#include <vector>

namespace postern::text {

// The pieces between `at`: one more than there are of it, so that "" is one empty piece.
inline std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto end = text.find(at);
    parts.push_back(text.substr(0, end));
    if (end == text.npos) {
      return parts;
    }
    text.remove_prefix(end + 1);
  }
}

}  // namespace postern::text
