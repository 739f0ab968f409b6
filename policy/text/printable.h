// Text of others (names, labels, help texts of images) for a terminal, a log or another program.
#pragma once

#include <string>
#include <string_view>

namespace postern::text {

enum class Lines {
  kOne,   // the text is part of one line
  kMany,  // line feeds and tabs stay
};

// What could steer a terminal, forge a line or show in another order than it is read becomes \xNN,
// byte by byte: control characters, C1 controls too (ECMA-48), bytes that are not UTF-8, and
// Unicode's line separators, invisible tags and controls of direction (UAX #9). Everything else
// stays.
std::string printable(std::string_view text, Lines lines = Lines::kOne);

// The same for a JSON text: what lies in its strings becomes \uNNNN, which reads as the same value.
std::string printable_json(std::string_view json);

}  // namespace postern::text
