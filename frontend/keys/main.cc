// postern-keys: key, sign, verify, seal, ecl. Started by bin/postern with its own arguments.
#include <array>

#include <sys/prctl.h>

#include <signal.h>

#include "frontend/keys/command.h"
#include "frontend/message/message.h"
#include "frontend/option/commands.h"

namespace {

constexpr std::array kCommands = std::to_array<postern::option::Command>({
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
  return postern::option::run_command(kCommands, "Usage: postern-keys ecl|key|seal|sign|verify …\n",
                                      argc, argv);
}
