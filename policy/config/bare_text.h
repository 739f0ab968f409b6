// What of a TOML file stands outside of quotes and comments.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace postern::config {

// Bytes outside ASCII must reach toml++ (3.3) only where it takes them for text: for most of them
// its is_non_ascii_horizontal_whitespace() ends in __builtin_unreachable(), and it asks that
// outside of quotes and comments, in strings of several lines, and behind an error. So a file is
// parsed when nothing is found below and, where it is not all ASCII, its as_ascii() has been parsed
// without error.

// The line, from 1, of the first byte outside ASCII that is neither in a comment nor in a string of
// one line; nothing where there is none. TOML allows such a byte nowhere else but in strings of
// several lines, which no key of ours needs.
inline constexpr std::string_view kBareNonAscii =
    "not TOML: a character outside ASCII may only stand in quotes or in a comment";

[[nodiscard]] std::optional<unsigned> find_bare_non_ascii(std::string_view text) noexcept;

// The same with two hexadecimal digits for each byte outside ASCII: it has the same structure and
// the same lines. Nothing where the text is all ASCII.
[[nodiscard]] std::optional<std::string> as_ascii(std::string_view text);

}  // namespace postern::config
