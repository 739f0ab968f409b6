// Hexadecimal digits (RFC 4648 §8).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace postern::text {

enum class Case : std::uint8_t { kLower, kUpper };

[[nodiscard]] std::string to_hex(std::span<const std::uint8_t> bytes, Case letters = Case::kLower);

// Whether the text is `digits` digits in lower case, as digests are written.
[[nodiscard]] bool is_lower_hex(std::string_view text, std::size_t digits) noexcept;

// The digit's value; -1 where it is none. Of either case.
[[nodiscard]] int hex_digit(char c) noexcept;

// Pairs of digits of either case. None where there is another character, or a half pair.
[[nodiscard]] std::optional<std::vector<std::uint8_t>> from_hex(std::string_view digits);

}  // namespace postern::text
