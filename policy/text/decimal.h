#pragma once

#include <optional>
#include <string_view>

namespace postern::text {

// Digits with at most one point among them: no sign, no exponent, no "inf". Not std::from_chars:
// the one for fractions needs the mathematics library, and every start would pay for loading that.
[[nodiscard]] std::optional<double> parse_decimal(std::string_view text);

}  // namespace postern::text
