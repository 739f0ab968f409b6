// Hostile text on its way to a terminal: nothing that could steer it remains, and JSON keeps its
// value.
#include <string_view>

#include <nlohmann/json.hpp>

#include "fuzz/target.h"
#include "policy/text/printable.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace text = postern::text;
  const std::string_view bytes(reinterpret_cast<const char*>(data),
                               size);  // SAFETY: bytes are chars
  for (const text::Lines lines : {text::Lines::kOne, text::Lines::kMany}) {
    const std::string shown = text::printable(bytes, lines);
    for (const char c : shown) {
      const bool kept = lines == text::Lines::kMany && (c == '\n' || c == '\t');
      if ((static_cast<unsigned char>(c) < 0x20 && !kept) || c == 0x7f) {
        __builtin_trap();
      }
    }
    if (shown.find("\xc2\x9b") != shown.npos || shown.find("\xe2\x80\xae") != shown.npos ||
        text::printable(shown, lines) != shown) {
      __builtin_trap();
    }
  }
  const auto before = nlohmann::json::parse(bytes, nullptr, false);
  if (!before.is_discarded() &&
      nlohmann::json::parse(text::printable_json(bytes), nullptr, false) != before) {
    __builtin_trap();
  }
  return 0;
}
