#include "policy/text/base64.h"

namespace postern::text {
namespace {

int value_of(char c, bool url) noexcept {
  if (c >= 'A' && c <= 'Z') {
    return c - 'A';
  }
  if (c >= 'a' && c <= 'z') {
    return c - 'a' + 26;
  }
  if (c >= '0' && c <= '9') {
    return c - '0' + 52;
  }
  if (c == '+' || (url && c == '-')) {
    return 62;
  }
  return c == '/' || (url && c == '_') ? 63 : -1;
}

std::uint8_t octet(std::uint32_t bits, unsigned shift) noexcept {
  return static_cast<std::uint8_t>(bits >> shift & 0xffU);
}

}  // namespace

std::string encode_base64(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = bytes.size() - i;
    const std::uint32_t bits = static_cast<std::uint32_t>(bytes[i]) << 16 |
                               static_cast<std::uint32_t>(left > 1 ? bytes[i + 1] : 0) << 8 |
                               static_cast<std::uint32_t>(left > 2 ? bytes[i + 2] : 0);
    out += kAlphabet[bits >> 18];
    out += kAlphabet[bits >> 12 & 63];
    out += left > 1 ? kAlphabet[bits >> 6 & 63] : '=';
    out += left > 2 ? kAlphabet[bits & 63] : '=';
  }
  return out;
}

std::optional<std::vector<std::uint8_t>> decode_base64(std::string_view text, bool url) {
  if (text.size() % 4 != 0) {
    return std::nullopt;
  }
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::vector<std::uint8_t> out;
  out.reserve(text.size() / 4 * 3);
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int value = i >= text.size() - padding ? 0 : value_of(text[i], url);
    if (value < 0) {
      return std::nullopt;
    }
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if (i % 4 == 3) {
      out.insert(out.end(), {octet(bits, 16), octet(bits, 8), octet(bits, 0)});
      bits = 0;
    }
  }
  // The bits that padding cuts off must be zero, or one value would have several spellings.
  for (std::size_t i = 0; i < padding; ++i) {
    if (out.back() != 0) {
      return std::nullopt;
    }
    out.pop_back();
  }
  return out;
}

}  // namespace postern::text
