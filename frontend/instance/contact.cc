#include "frontend/instance/contact.h"

#include <array>
#include <charconv>
#include <string_view>

namespace postern::instance {
std::string encode(const Description& description) {
  std::string bytes = std::to_string(description.pid);
  for (const std::string* const text : {&description.image, &description.out, &description.err}) {
    bytes += '\0';
    bytes += *text;
  }
  return bytes;
}

bool decode(const std::string& bytes, Description& description) {
  std::array<std::string_view, 4> fields;
  std::string_view rest = bytes;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const std::size_t end = rest.find('\0');
    if ((end == rest.npos) != (i + 1 == fields.size())) {
      return false;
    }
    fields[i] = rest.substr(0, end);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  }
  const char* const last = fields[0].data() + fields[0].size();
  const auto [end, error] = std::from_chars(fields[0].data(), last, description.pid);
  description.image = fields[1];
  description.out = fields[2];
  description.err = fields[3];
  return error == std::errc{} && end == last && description.pid > 0;
}

}  // namespace postern::instance
