// postern-keys: key, sign, verify, seal, ecl. Started by bin/postern with its own arguments.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include <sys/prctl.h>

#include <signal.h>

#include "frontend/keys/command.h"
#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace {

struct Command {
  std::string_view name;
  int (*run)(std::span<const std::string> words);
};

constexpr std::array kCommands = std::to_array<Command>({
    {"ecl", postern::keys::ecl_command},
    {"key", postern::keys::key_command},
    {"keys", postern::keys::key_command},
    {"seal", postern::keys::seal_command},
    {"sign", postern::keys::sign_command},
    {"verify", postern::keys::verify_command},
});

}  // namespace

int main(int argc, char** argv) {
  // Passphrases and secret keys pass through this process: nobody attaches to it, it leaves no
  // core.
  (void)::prctl(PR_SET_DUMPABLE, 0);
  (void)::signal(SIGPIPE, SIG_IGN);  // a GnuPG that ends early is an error, not our end
  postern::message::configure_from_environment();
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const auto command =
      words.empty()
          ? kCommands.end()
          : std::find_if(kCommands.begin(), kCommands.end(),
                         [&](const Command& candidate) { return candidate.name == words[0]; });
  if (command == kCommands.end()) {
    std::fputs("Usage: postern-keys ecl|key|seal|sign|verify …\n", stderr);
    return postern::kExitUsage;
  }
  return command->run(std::span(words).subspan(1));
}
