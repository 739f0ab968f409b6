// bin/postern: global options, then the command.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/cli/command.h"
#include "frontend/message/message.h"
#include "frontend/system/argv.h"
#include "frontend/system/libexec.h"
#include "frontend/system/roomy_stack.h"
#include "protocol/exit_codes.h"

namespace postern::cli {
namespace {

// Programs that we start print as we do; see message::configure_from_environment.
void publish(const option::Arguments& global) {
  struct Level {
    std::string_view option;
    message::Level level;
  };

  static constexpr std::array<Level, 4> kLevels = {{{"debug", message::Level::kDebug},
                                                    {"verbose", message::Level::kVerbose},
                                                    {"quiet", message::Level::kLog},
                                                    {"silent", message::Level::kError}}};
  const auto* chosen = std::find_if(kLevels.begin(), kLevels.end(),
                                    [&](const Level& one) { return global.given(one.option); });
  // NOLINTBEGIN(concurrency-mt-unsafe): one thread
  if (chosen != kLevels.end()) {
    const std::string number = std::to_string(static_cast<int>(chosen->level));
    ::setenv("POSTERN_MESSAGELEVEL", number.c_str(), 1);
  }
  for (const char* other : {"APPTAINER_MESSAGELEVEL", "SINGULARITY_MESSAGELEVEL"}) {
    const char* level = chosen == kLevels.end() ? ::getenv(other) : nullptr;
    if (level != nullptr) {
      ::setenv("POSTERN_MESSAGELEVEL", level, 0);
    }
  }
  if (global.given("nocolor")) {
    ::setenv("POSTERN_NOCOLOR", "1", 1);
  }
  if (global.given("config")) {
    set_config_path(std::string(global.text("config")));
    ::setenv("POSTERN_CONFIG_FILE", config_path().c_str(), 1);
  }
  // NOLINTEND(concurrency-mt-unsafe)
  message::configure_from_environment();
}

int usage_error(const Problem& problem) {
  if (problem.exit_code != kExitUsage) {
    message::fatal(problem);
    return problem.exit_code;
  }
  return message::wrong_usage("", problem.what, "Run 'postern --help' for usage.\n");
}

int dispatch(const std::vector<std::string>& words) {
  auto global = option::parse(global_options(), 1, words, environ, true);
  if (!global) {
    return usage_error(global.error());
  }
  publish(*global);
  if (global->given("version")) {
    print_version();
    return 0;
  }
  if (global->given("config") && ::access(config_path().c_str(), R_OK) != 0) {
    return usage_error(system_problem("--config " + config_path(), errno,
                                      "name a readable postern.toml, or leave the option out"));
  }
  const std::vector<std::string>& rest = global->positional();
  if (global->given("help")) {
    return help_command({});
  }
  if (rest.empty()) {
    std::fputs(general_help().c_str(), stdout);
    return kExitUsage;
  }
  const Command* command = find_command(rest[0]);
  if (command == nullptr) {
    return message::unknown_command(rest[0], "postern", "Run 'postern help' for the commands.\n");
  }
  const auto operands = std::span(rest).subspan(1);
  if (command->program != nullptr) {
    return run_program(*command, operands);
  }
  // Commands with options of their own, or with commands below them, answer --help themselves.
  const bool wants_help = command->options == 0 && command->subcommands.empty() &&
                          !operands.empty() && (operands[0] == "--help" || operands[0] == "-h");
  return wants_help ? help_command(rest) : command->handler(operands);
}

// Descriptors 0, 1 and 2 exist, so that nothing we open takes their place: a caller may start us
// with them closed.
bool has_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd) {
      return false;
    }
  }
  return true;
}

}  // namespace

int run_program(const Command& command, std::span<const std::string> words) {
  const std::string path = system::libexec_program(command.program);
  std::vector<std::string> copies{"postern", std::string(command.name)};
  copies.insert(copies.end(), words.begin(), words.end());
  std::vector<char*> argv = system::argv_of(copies);
  ::execv(path.c_str(), argv.data());
  message::fatal(system::program_problem("starting", path, errno));
  return kExitFatal;
}

namespace {

int run(int argc, char** argv) {
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const std::string_view self = argc > 0 ? argv[0] : "";
  postern::cli::set_called_as(self.substr(self.rfind('/') + 1));
  // The launch line of SIF files: "#!/usr/bin/env run-singularity".
  if (self.substr(self.rfind('/') + 1) == "run-singularity") {
    words.insert(words.begin(), {"--quiet", "run"});
  }
  return dispatch(words);
}

}  // namespace
}  // namespace postern::cli

int main(int argc, char** argv) {
  if (!postern::cli::has_standard_descriptors()) {
    return postern::kExitFatal;
  }
  return postern::system::on_roomy_stack(postern::cli::run, argc, argv);
}
