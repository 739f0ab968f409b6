#include "policy/config/bare_text.h"

#include <algorithm>
#include <cstdint>

namespace postern::config {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_ascii(char c) noexcept {
  return static_cast<unsigned char>(c) < 0x80;
}

enum class In : std::uint8_t { kBare, kComment, kLine, kSeveralLines };

}  // namespace

std::optional<unsigned> find_bare_non_ascii(std::string_view text) noexcept {
  In in = In::kBare;
  char quote = '"';
  unsigned line = 1;
  const auto repeats = [&](std::size_t at, std::size_t count) {
    return text.substr(at, count).find_first_not_of(quote) == std::string_view::npos &&
           text.size() - at >= count;
  };
  for (std::size_t i = text.starts_with(kByteOrderMark) ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    line += c == '\n' ? 1 : 0;
    const bool quoted = in == In::kLine || in == In::kSeveralLines;
    if (!is_ascii(c) && (in == In::kBare || in == In::kSeveralLines)) {
      return line;
    }
    if (quoted && c == '\\' && quote == '"' && i + 1 < text.size() && text[i + 1] != '\n') {
      ++i;  // what is escaped ends no string
    } else if (in == In::kBare && (c == '"' || c == '\'')) {
      quote = c;
      in = repeats(i, 3) ? In::kSeveralLines : In::kLine;
      i += in == In::kSeveralLines ? 2 : 0;
    } else if (in == In::kBare && c == '#') {
      in = In::kComment;
    } else if (in == In::kSeveralLines && c == quote && repeats(i, 3)) {
      in = In::kBare;
      i += 2;
      for (int more = 0; more < 2 && repeats(i + 1, 1); ++more) {
        ++i;  // up to two quotes may stand right before the three that end it
      }
    } else if ((in == In::kLine && c == quote) ||
               (c == '\n' && (in == In::kLine || in == In::kComment))) {
      in = In::kBare;
    }
  }
  return std::nullopt;
}

std::optional<std::string> as_ascii(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), is_ascii)) {
    return std::nullopt;
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0)) {
    const auto byte = static_cast<unsigned char>(c);
    if (is_ascii(c)) {
      out += c;
    } else {
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

}  // namespace postern::config
