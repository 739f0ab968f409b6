#include "frontend/transfer/sub_commands.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "frontend/message/message.h"
#include "frontend/message/table.h"
#include "frontend/transfer/command.h"
#include "protocol/exit_codes.h"

namespace postern::transfer {
int run_sub_command(std::string_view command,
                    std::string_view summary,
                    std::span<const option::Option> options,
                    std::span<const SubCommand> known,
                    std::span<const std::string> words) {
  const auto show = [&](std::FILE* to) {
    std::string text = std::string(summary) + "\n\nUsage:\n";
    for (const SubCommand& one : known) {
      text += "  postern " + std::string(command) + " " + std::string(one.name) +
              (one.operands.empty() ? "" : " ") + std::string(one.operands) + "\n";
    }
    std::fputs(text.c_str(), to);
    return to == stdout ? 0 : kExitUsage;
  };
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    return show(words.empty() ? stderr : stdout);
  }
  const auto found = std::find_if(known.begin(), known.end(),
                                  [&](const SubCommand& one) { return one.name == words[0]; });
  if (found == known.end()) {
    (void)message::unknown_command(words[0], command, "");
    return show(stderr);
  }
  const std::string name = std::string(command) + " " + std::string(found->name);
  return run({.name = name,
              .operands = found->operands,
              .summary = found->summary,
              .options = options,
              .commands = found->options,
              .least = found->least,
              .most = found->most},
             words.subspan(1), found->act);
}

void print_table(std::vector<std::vector<std::string>> rows) {
  std::fputs(("\n" + message::table(std::move(rows))).c_str(), stdout);
}

}  // namespace postern::transfer
