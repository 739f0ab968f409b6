// postern-transfer: the commands that fetch and send images. Started by bin/postern with its own
// arguments: that program does not load libcurl and what comes with it.
#include <array>
#include <clocale>
#include <csignal>

#include <sys/prctl.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/option/commands.h"
#include "frontend/transfer/command.h"

namespace {

constexpr std::array kCommands = std::to_array<postern::option::Command>({
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
  const int status = postern::option::run_command(
      kCommands,
      "Usage: postern-transfer cache|delete|fetch|keyserver|pull|push|registry|remote|search|tag "
      "…\n",
      argc, argv);
  if (const int signal = postern::imagebuild::interrupt_signal(); signal != 0) {
    std::raise(signal);  // the shell learns that it was the signal
  }
  return status;
}
