// postern-transfer: the commands that fetch and send images. Started by bin/postern with its own
// arguments: that program does not load libcurl and what comes with it.
#include <algorithm>
#include <array>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include <sys/prctl.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/transfer/command.h"
#include "protocol/exit_codes.h"

namespace {

struct Command {
  std::string_view name;
  int (*run)(std::span<const std::string> words);
};

constexpr std::array kCommands = std::to_array<Command>({
    {"cache", postern::transfer::cache_command},
    {"delete", postern::transfer::delete_command},
    {"fetch", postern::transfer::fetch_command},
    {"key-servers", postern::transfer::key_servers_command},
    {"keyserver", postern::transfer::keyserver_command},
    {"pull", postern::transfer::pull_command},
    {"push", postern::transfer::push_command},
    {"registry", postern::transfer::registry_command},
    {"remote", postern::transfer::remote_command},
    {"request", postern::transfer::request_command},
    {"search", postern::transfer::search_command},
    {"tag", postern::transfer::tag_command},
});

}  // namespace

int main(int argc, char** argv) {
  (void)::prctl(PR_SET_DUMPABLE, 0);    // passwords pass through: no core, nobody attaches
  (void)std::signal(SIGPIPE, SIG_IGN);  // a server that ends early is an error, not our end
  postern::message::configure_from_environment();
  // Names in archives are bytes; see postern-build.
  if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) {
    postern::message::warning(
        "no C.UTF-8 locale: names in pax archives that are not ASCII may suffer");
  }
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const auto command =
      words.empty()
          ? kCommands.end()
          : std::find_if(kCommands.begin(), kCommands.end(),
                         [&](const Command& candidate) { return candidate.name == words[0]; });
  if (command == kCommands.end()) {
    std::fputs(
        "Usage: postern-transfer cache|delete|fetch|keyserver|pull|push|registry|remote|search|tag "
        "…\n",
        stderr);
    return postern::kExitUsage;
  }
  const int status = command->run(std::span(words).subspan(1));
  if (const int signal = postern::imagebuild::interrupt_signal(); signal != 0) {
    std::raise(signal);  // the shell learns that it was the signal
  }
  return status;
}
