// What registries, token servers and libraries say: the first line is a header, the rest a body.
#include <string_view>

#include "frontend/net/library.h"
#include "frontend/net/registry.h"
#include "fuzz/target.h"

namespace net = postern::net;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t line = text.find('\n');
  const std::string_view header = text.substr(0, line);
  const std::string_view body = line == std::string_view::npos ? text : text.substr(line + 1);
  (void)net::manifest_media_type(header, body);
  (void)net::next_page(header);
  if (const auto challenge = net::parse_challenge(header);
      challenge && challenge->bearer && challenge->realm.empty()) {
    __builtin_trap();
  }
  if (const auto token = net::parse_token(body)) {
    for (const char c : *token) {  // it goes into a header
      if (c <= 0x20 || c >= 0x7f) {
        __builtin_trap();
      }
    }
  }
  if (const auto image = net::parse_library_image(body); image && image->hash.size() != 71) {
    __builtin_trap();
  }
  return 0;
}
