// What of a TOML file stands outside of quotes and comments.
#pragma once

#include <optional>
#include <string_view>

namespace postern::config {

// The line, from 1, of the first byte outside ASCII that is neither in a comment nor in a string of
// one line; nothing where there is none. TOML allows such a byte nowhere else but in strings of
// several lines, which no key of ours needs. It must not reach toml++ (3.3): its
// is_non_ascii_horizontal_whitespace() ends in __builtin_unreachable() for most of them.
inline constexpr std::string_view kBareNonAscii =
    "not TOML: a character outside ASCII may only stand in quotes or in a comment";

[[nodiscard]] std::optional<unsigned> find_bare_non_ascii(std::string_view text) noexcept;

}  // namespace postern::config
