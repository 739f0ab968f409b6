// Writes postern-messages(7), as scdoc source, from the table of refusals.
#include <cstdio>
#include <string>
#include <string_view>

#include "protocol/refusal_table.h"

namespace {

// Plain text as scdoc(5) wants it.
std::string escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view{"\\_*~"}.find(c) != std::string_view::npos) {
      escaped += '\\';
    }
    escaped += c;
  }
  return escaped;
}

std::string sentence(std::string_view text) {
  std::string words(text);
  if (words.front() >= 'a' && words.front() <= 'z') {
    words.front() = static_cast<char>(words.front() - ('a' - 'A'));
  }
  return escape(words) + '.';
}

constexpr std::string_view kHead = R"(postern-messages(7)

# NAME

postern-messages - what Postern says when it refuses, and what to do

# DESCRIPTION

Messages go to standard error, one line each. What a line begins with says what it is:

*FATAL:*
	The start, or the command, ended here. What failed comes first, then the cause, then a semicolon and the cure.

*ERROR:*
	Something failed, and the command went on.

*WARNING:*
	Something is not as it was asked for, and the command went on. *--silent* hides it.

*INFO:*
	What the command does. *--quiet* hides it.

*VERBOSE:*, *DEBUG:*
	Shown with *--verbose* and *--debug*.

Text that comes from an image, a file or a server is shown without control characters: each is written \\xNN.

# REFUSALS

If the helper or the judge says no in setuid mode, the message names one of these rules, the file that holds it and the cure. The audit line of *postern-helper*(8) names the
rule as well. The number is what the helper answers.
)";

constexpr std::string_view kTail = R"(
# SEE ALSO

*postern*(1), section EXIT STATUS, *postern-security*(7), *postern-helper*(8)
)";

}  // namespace

int main() {
  std::string page(kHead);
  for (const postern::RefusalRow& row : postern::kRefusals) {
    page +=
        "\n*" + escape(row.rule) + "* (number " + std::to_string(static_cast<unsigned>(row.code));
    page += row.file.empty() ? ")\n" : ", _" + escape(row.file) + "_)\n";
    page += '\t' + sentence(row.words) + " Cure: " + escape(row.cure) + ".\n";
  }
  page += kTail;
  return std::fputs(page.c_str(), stdout) < 0 ? 1 : 0;
}
