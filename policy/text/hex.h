// Hexadecimal digits (RFC 4648 §8).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace postern::text {

// Lower case.
[[nodiscard]] std::string to_hex(std::span<const std::uint8_t> bytes);

// The digit's value; -1 where it is none. Of either case.
[[nodiscard]] int hex_digit(char c) noexcept;

// Pairs of digits of either case. None where there is another character, or a half pair.
[[nodiscard]] std::optional<std::vector<std::uint8_t>> from_hex(std::string_view digits);

}  // namespace postern::text
