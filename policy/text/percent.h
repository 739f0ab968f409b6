// Percent-encoding (RFC 3986 §2.1).
#pragma once

#include <string>
#include <string_view>

namespace postern::text {

// Everything but the unreserved characters of §2.3 is encoded.
[[nodiscard]] std::string percent_encode(std::string_view text);

}  // namespace postern::text
