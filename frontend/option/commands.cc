#include "frontend/option/commands.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace postern::option {

int run_command(std::span<const Command> commands, const char* usage, int argc, char** argv) {
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const auto command = std::find_if(
      commands.begin(), commands.end(),
      [&](const Command& candidate) { return !words.empty() && candidate.name == words.front(); });
  if (command == commands.end()) {
    std::fputs(usage, stderr);
    return kExitUsage;
  }
  return command->run(std::span(words).subspan(1));
}

int exit_status(const Outcome<int>& result, const char* usage) {
  if (result) {
    return *result;
  }
  message::fatal(result.error());
  if (result.error().exit_code == kExitUsage) {
    std::fputs(usage, stderr);
  }
  return result.error().exit_code;
}

}  // namespace postern::option
