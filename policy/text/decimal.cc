#include "policy/text/decimal.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace postern::text {

std::optional<double> parse_decimal(std::string_view text) {
  const bool is_plain = text.find_first_not_of("0123456789.") == text.npos &&
                        std::count(text.begin(), text.end(), '.') <= 1 &&
                        text.find_first_of("0123456789") != text.npos;
  if (!is_plain) {
    return std::nullopt;
  }
  return std::strtod(std::string(text).c_str(), nullptr);
}

}  // namespace postern::text
