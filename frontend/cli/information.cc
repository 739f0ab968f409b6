// version, buildcfg, help, run-help and completion.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include "frontend/cli/command.h"
#include "frontend/cli/completion.h"
#include "frontend/config/commands.h"
#include "frontend/message/message.h"
#include "frontend/system/libexec.h"
#include "protocol/exit_codes.h"

namespace postern::cli {

namespace {

// The Apptainer whose command line this is: what Snakemake, cwltool and Nextflow compare with the
// least version that they work with.
constexpr const char* kApptainerVersion = "1.5.3";

bool g_is_apptainer = false;

int absent(std::string what, std::string cure) {
  const Problem problem{.what = std::move(what), .cure = std::move(cure)};
  message::fatal(problem);
  return problem.exit_code;
}

}  // namespace

void set_called_as(std::string_view name) {
  g_is_apptainer = name == "apptainer" || name == "singularity";
}

bool is_called_apptainer() {
  return g_is_apptainer;
}

void print_version() {
  if (g_is_apptainer) {
    std::printf("apptainer version %s\n", kApptainerVersion);
  } else {
    std::puts(POSTERN_VERSION);
  }
}

int version_command(std::span<const std::string> /*words*/) {
  std::puts(g_is_apptainer ? kApptainerVersion : POSTERN_VERSION);
  return 0;
}

int buildcfg_command(std::span<const std::string> words) {
  struct Value {
    std::string_view name;
    std::string_view value;
  };

  const bool suid_installed = ::access(POSTERN_LIBEXECDIR "/postern-helper", F_OK) == 0;
  const std::array values = std::to_array<Value>({
      {"PACKAGE_NAME", "postern"},
      {"PACKAGE_VERSION", POSTERN_VERSION},
      {"PREFIX", POSTERN_PREFIX},
      {"BINDIR", POSTERN_BINDIR},
      {"LIBEXECDIR", POSTERN_LIBEXECDIR},
      {"POSTERN_CONFDIR", POSTERN_CONFDIR},
      {"POSTERN_CONF_FILE", POSTERN_CONFDIR "/postern.toml"},
      {"POSTERN_SUID_INSTALL", suid_installed ? "1" : "0"},
  });
  if (words.empty()) {
    for (const Value& value : values) {
      std::printf("%s=%s\n", value.name.data(), value.value.data());
    }
    return 0;
  }
  const auto* found = std::find_if(values.begin(), values.end(),
                                   [&](const Value& value) { return value.name == words[0]; });
  if (found == values.end()) {
    return report_usage_error(*find_command("buildcfg"),
                              Problem{.what = "there is no value " + words[0]});
  }
  std::puts(found->value.data());
  return 0;
}

int capability_command(std::span<const std::string> words) {
  return config::capability_command(words, config_path());
}

int config_command(std::span<const std::string> words) {
  return config::config_command(words, config_path());
}

int checkpoint_command(std::span<const std::string> /*words*/) {
  return absent(
      "`checkpoint` is not there: Apptainer's saves a program by DMTCP, which must be in "
      "the image and be loaded into the program",
      "use the program's own checkpoints, or start it by dmtcp_launch inside");
}

int oci_command(std::span<const std::string> /*words*/) {
  return absent("`oci` is not there: its commands are for root alone and run bundles for an engine",
                "run the image with exec or run; for bundles there are runc(8) and crun(1)");
}

int plugin_command(std::span<const std::string> /*words*/) {
  return absent(
      "`plugin` is not there: Apptainer's plugins are Go libraries that it loads into "
      "itself, privileged parts included",
      "what a plugin changed may be a setting here: postern.toml(5)");
}

int help_command(std::span<const std::string> words) {
  if (words.empty()) {
    std::fputs(general_help().c_str(), stdout);
    return 0;
  }
  const Command* command = find_command(words[0]);
  if (command == nullptr) {
    return report_usage_error(*find_command("help"),
                              Problem{.what = "there is no command \"" + words[0] + '"'});
  }
  if (command->usage.empty() && command->summary.empty()) {
    return command->handler({});  // it says why it is not there
  }
  if (command->program != nullptr) {
    return run_program(*command, std::vector<std::string>{"--help"});
  }
  if (!command->subcommands.empty() && command->handler != completion_command) {
    return command->handler(std::vector<std::string>{"--help"});
  }
  std::fputs(help(*command).c_str(), stdout);
  return 0;
}

int run_help_command(std::span<const std::string> words) {
  std::vector<std::string> all{"--helpfile"};
  all.insert(all.end(), words.begin(), words.end());
  return run_program(*find_command("inspect"), all);
}

int completion_command(std::span<const std::string> words) {
  const std::string script = words.size() == 1 ? completion_script(words[0]) : std::string{};
  if (script.empty()) {
    return report_usage_error(*find_command("completion"),
                              Problem{.what = "the name of a shell is needed"});
  }
  std::fputs(script.c_str(), stdout);
  return 0;
}

}  // namespace postern::cli
