// From the text of a script to its syntax tree.
#pragma once

#include <string>
#include <string_view>

#include "frontend/shell/syntax.h"
#include "protocol/base/result.h"

namespace postern::shell {

struct SyntaxError {
  unsigned line = 0;
  std::string what;
};

// The commands of a script, in order.
Result<Node::List, SyntaxError> parse_script(std::string_view text);

// The text as if it stood between double quotes.
Result<Word, SyntaxError> parse_quoted(std::string_view text);

}  // namespace postern::shell
