#include "policy/text/printable.h"

#include <cstddef>
#include <cstdint>
#include <functional>

namespace postern::text {
namespace {

constexpr std::string_view kHex = "0123456789abcdef";

struct Character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;  // 0: not UTF-8
};

// The first character of `text`, which is not empty. RFC 3629: no surrogates, no longer form than
// needed.
Character first_of(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) {
    return {lead, 1};
  }
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) {
    return {};
  }
  std::uint32_t code = lead & (0x7fU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((at(i) & 0xc0U) != 0x80) {
      return {};
    }
    code = code << 6 | (at(i) & 0x3fU);
  }
  const bool too_long = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  return too_long || surrogate || code > 0x10ffff ? Character{} : Character{code, bytes};
}

bool is_harmless(std::uint32_t code) {
  struct Range {
    std::uint32_t first;
    std::uint32_t last;
  };

  constexpr Range kControls[] = {
      {0x00, 0x1f},     {0x7f, 0x9f},        // C0, DEL, C1
      {0x061c, 0x061c}, {0x200e, 0x200f},    // marks of direction
      {0x2028, 0x202e}, {0x2066, 0x2069},    // separators, embeddings, overrides, isolates
      {0xfff9, 0xfffb}, {0xe0000, 0xe007f},  // annotations, tags
  };
  for (const Range& range : kControls) {
    if (code >= range.first && code <= range.last) {
      return false;
    }
  }
  return true;
}

using Replace = std::function<void(std::string& out, std::string_view bytes, std::uint32_t code)>;

std::string replaced(std::string_view text, bool many_lines, const Replace& replace) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Character character = first_of(text);
    const std::string_view bytes = text.substr(0, character.bytes == 0 ? 1 : character.bytes);
    const bool stays = many_lines && (bytes == "\n" || bytes == "\t");
    if (stays || (character.bytes != 0 && is_harmless(character.code))) {
      out += bytes;
    } else {
      replace(out, bytes, character.code);
    }
    text.remove_prefix(bytes.size());
  }
  return out;
}

void as_bytes(std::string& out, std::string_view bytes, std::uint32_t /*code*/) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    out += "\\x";
    out += kHex[byte >> 4];
    out += kHex[byte & 0xf];
  }
}

void as_unit(std::string& out, std::uint32_t unit) {
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) {
    out += kHex[unit >> shift & 0xf];
  }
}

void as_json(std::string& out, std::string_view /*bytes*/, std::uint32_t code) {
  if (code < 0x10000) {
    as_unit(out, code);
    return;
  }
  as_unit(out, 0xd800 + ((code - 0x10000) >> 10));  // RFC 8259, 7: two units
  as_unit(out, 0xdc00 + ((code - 0x10000) & 0x3ff));
}

}  // namespace

std::string printable(std::string_view text, Lines lines) {
  return replaced(text, lines == Lines::kMany, as_bytes);
}

std::string printable_json(std::string_view json) {
  return replaced(json, true, as_json);
}

}  // namespace postern::text
