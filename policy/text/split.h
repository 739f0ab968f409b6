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

// Takes the first line off `rest`, and returns it without its newline.
inline std::string_view next_line(std::string_view& rest) {
  const auto end = rest.find('\n');
  const std::string_view line = rest.substr(0, end);
  rest = end == rest.npos ? std::string_view{} : rest.substr(end + 1);
  return line;
}

template <class Function>
void for_each_line(std::string_view text, Function function) {
  while (!text.empty()) {
    function(next_line(text));
  }
}

}  // namespace postern::text
