// instance start, run, list, stop and stats.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include "frontend/cli/action.h"
#include "frontend/cli/action_options.h"
#include "frontend/instance/command.h"
#include "frontend/instance/detach.h"
#include "frontend/message/message.h"
#include "frontend/plan/bind.h"
#include "frontend/plan/caller.h"
#include "frontend/system/inherited.h"
#include "protocol/exit_codes.h"

namespace postern::cli {
namespace {

constexpr std::string_view kOperands = "[options] IMAGE NAME [ARGUMENT...]";

// clang-format off
constexpr std::array kStarts = std::to_array<Command>({
  {"instance run", "", kOperands, "start an instance that executes the image's runscript", "", nullptr, nullptr, kInstanceRun},
  {"instance start", "", kOperands, "start an instance that executes the image's startscript", "", nullptr, nullptr, kInstanceStart},
});
// clang-format on

void show_usage(std::FILE* to) {
  std::string text =
      "Run containers in the background.\n\nUsage:\n"
      "  postern instance list [options] [PATTERN]\n";
  for (const Command& command : kStarts) {
    text += "  postern " + std::string(command.name) + " " + std::string(command.usage) + "\n";
  }
  text +=
      "  postern instance stats [options] NAME\n"
      "  postern instance stop [options] PATTERN | --all\n\n"
      "Other commands take instance://NAME for an image: exec, run, shell, test.\n"
      "Run 'postern instance COMMAND --help' for the options of a command.\n";
  std::fputs(text.c_str(), to);
}

Outcome<int> start_instance(init::Action what, const option::Arguments& arguments) {
  const std::vector<std::string>& operands = arguments.positional();
  if (operands.size() < 2) {
    return Problem{.what = "an image and a name for the instance are needed",
                   .exit_code = kExitUsage};
  }
  POSTERN_TRY_ASSIGN(plan::Action action, to_action(arguments));
  action.what = what;
  action.image = operands[0];
  action.arguments.assign(operands.begin() + 2, operands.end());
  action.pid = true;
  instance::Wish wish{.name = operands[1], .pid_file = std::string(arguments.text("pid-file"))};
  if (!wish.pid_file.empty()) {
    wish.pid_file = plan::absolute_path(wish.pid_file, plan::read_caller().directory);
  }
  return instance::start_detached(std::move(wish), [&](instance::Monitor& monitor) {
    return start(std::move(action), {}, &monitor);
  });
}

}  // namespace

int instance_command(std::span<const std::string> words) {
  const std::string verb = words.empty() ? std::string() : words.front();
  if (verb.empty() || verb == "--help" || verb == "-h" || verb == "help") {
    show_usage(words.empty() ? stderr : stdout);
    return words.empty() ? kExitUsage : 0;
  }
  if (verb == "list" || verb == "stop" || verb == "stats") {
    return instance::command(verb, words.subspan(1));
  }
  const auto* const command = std::find_if(kStarts.begin(), kStarts.end(), [&](const Command& one) {
    return one.name.substr(one.name.find(' ') + 1) == verb;
  });
  if (command == kStarts.end()) {
    (void)message::unknown_command(verb, "instance", "");
    show_usage(stderr);
    return kExitUsage;
  }
  // ORDER: before anything is opened. The instance gets none of them; they are not kept open
  // either.
  (void)system::take_inherited_descriptors();
  const auto arguments = parse_action(*command, words.subspan(1));
  if (!arguments) {
    return arguments.error();
  }
  const init::Action what =
      command->options == kInstanceRun ? init::Action::kRun : init::Action::kStart;
  const Outcome<int> status = start_instance(what, *arguments);
  return status ? *status : report(*command, status.error());
}

}  // namespace postern::cli
