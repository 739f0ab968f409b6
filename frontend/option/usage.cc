#include "frontend/option/usage.h"

#include <cstdio>
#include <utility>

#include <unistd.h>

#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace postern::option {

Result<Arguments, int> parse_command(const Usage& usage, std::span<const std::string> words) {
  const std::string line =
      "Usage:\n  postern " + std::string(usage.name) + " " + std::string(usage.operands) + "\n";
  for (const std::string& word : words) {
    if (word == "--") {
      break;
    }
    if (word == "--help" || word == "-h") {
      const std::string text = std::string(usage.summary) + "\n\n" + line + "\nOptions:\n" +
                               describe(usage.options, usage.commands);
      std::fputs(text.c_str(), stdout);
      return 0;
    }
  }
  auto parsed = parse(usage.options, usage.commands, words, environ, /*stop_at_positional=*/false);
  std::string wrong;
  if (!parsed) {
    if (parsed.error().exit_code != kExitUsage) {
      message::fatal(parsed.error());
      return parsed.error().exit_code;
    }
    wrong = parsed.error().what;
  } else if (parsed->positional().size() < usage.least ||
             parsed->positional().size() > usage.most) {
    wrong = "wrong number of arguments: " + std::to_string(parsed->positional().size());
  }
  if (!wrong.empty()) {
    return message::wrong_usage(usage.name, wrong,
                                line + "\nRun 'postern " + std::string(usage.name) +
                                    " --help' for more detailed usage information.\n");
  }
  return *std::move(parsed);
}

}  // namespace postern::option
