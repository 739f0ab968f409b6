#include "frontend/cli/command.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "frontend/cli/action_options.h"
#include "frontend/doctor/doctor_command.h"
#include "frontend/message/message.h"
#include "frontend/overlay/overlay_command.h"
#include "frontend/sif/sif_command.h"
#include "protocol/exit_codes.h"

namespace postern::cli {
namespace {

constexpr option::CommandSet kAll = 1;

// clang-format off
constexpr std::array kGlobalOptions = std::to_array<option::Option>({
  {"debug", 'd', "DEBUG", option::Kind::kFlag, kAll, "", "say everything"},
  {"verbose", 'v', "VERBOSE", option::Kind::kFlag, kAll, "", "say more"},
  {"quiet", 'q', "QUIET", option::Kind::kFlag, kAll, "", "warnings and errors only"},
  {"silent", 's', "SILENT", option::Kind::kFlag, kAll, "", "errors only"},
  {"nocolor", 0, "NOCOLOR", option::Kind::kFlag, kAll, "", "no colours"},
  {"config", 'c', "CONFIG_FILE", option::Kind::kText, kAll, "FILE", "another postern.toml (in suid mode the site's own still decides)"},
  {"build-config", 0, "", option::Kind::kFlag, kAll, "", "", "use --config with a file of your own"},
  {"help", 'h', "", option::Kind::kFlag, kAll, "", "show this help"},
  {"version", 0, "", option::Kind::kFlag, kAll, "", "show the version"},
});

constexpr std::array kCommands = std::to_array<Command>({
  {"build", "", "[options] TARGET SOURCE", "make an image from a directory, archive or definition", "", nullptr, "postern-build", 0},
  {"buildcfg", "", "[NAME]", "", "", buildcfg_command, nullptr, 0},
  {"cache", "", "COMMAND", "manage the cache of downloaded and converted images", "clean list", nullptr, "postern-transfer", 0},
  {"capability", "caps", "COMMAND", "grant capabilities to users and groups", "add avail drop list", capability_command, nullptr, 0},
  {"checkpoint", "", "", "", "", checkpoint_command, nullptr, 0},
  {"completion", "", "bash|zsh|fish", "", "bash zsh fish", completion_command, nullptr, 0},
  {"config", "", "COMMAND", "show, change, check and import the site's settings", "global import", config_command, nullptr, 0},
  {"decrypt", "", "[options] IMAGE OUTPUT", "take the encryption from an image", "", nullptr, "postern-crypt", 0},
  {"delete", "", "[options] URI", "delete an image in a library or a registry", "", nullptr, "postern-transfer", 0},
  {"doctor", "", "[options]", "say what this host offers, and the cure for what it does not", "", doctor::doctor_command, nullptr, 0},
  {"ecl", "", "COMMAND", "the execution control list: check an image, list the rules", "check list", nullptr, "postern-keys", 0},
  {"encrypt", "", "[options] IMAGE OUTPUT", "encrypt an image", "", nullptr, "postern-crypt", 0},
  {"exec", "", "[options] IMAGE COMMAND [ARGUMENT...]", "run a command in a container", "", exec_command, nullptr, kExec},
  {"help", "", "[COMMAND]", "show help", "", help_command, nullptr, 0},
  {"inspect", "", "[options] IMAGE", "show the metadata of an image", "", nullptr, "postern-inspect", 0},
  {"instance", "", "COMMAND", "run containers in the background", "list run start stats stop", instance_command, nullptr, 0},
  {"key", "keys", "COMMAND", "manage OpenPGP keys", "export import list newpair pull push remove search", nullptr, "postern-keys", 0},
  {"keyserver", "", "COMMAND", "manage key servers", "add list login logout remove", nullptr, "postern-transfer", 0},
  {"oci", "", "", "", "", oci_command, nullptr, 0},
  {"overlay", "", "COMMAND", "make images that hold the changes of containers", "create", overlay::overlay_command, nullptr, 0},
  {"plugin", "plugins", "", "", "", plugin_command, nullptr, 0},
  {"pull", "", "[options] [OUTPUT] URI", "fetch an image into a file", "", nullptr, "postern-transfer", 0},
  {"push", "", "[options] IMAGE URI", "send an image to a registry or a library", "", nullptr, "postern-transfer", 0},
  {"registry", "", "COMMAND", "log in to container registries", "list login logout", nullptr, "postern-transfer", 0},
  {"rekey", "", "[options] IMAGE", "change the keys of an encrypted image", "", nullptr, "postern-crypt", 0},
  {"remote", "", "COMMAND", "manage remotes: where libraries and key servers are", "add get-login-password list login logout remove status use", nullptr, "postern-transfer", 0},
  {"run", "", "[options] IMAGE [ARGUMENT...]", "run the image's runscript", "", run_command, nullptr, kRun},
  {"run-help", "", "[--app NAME] IMAGE", "show the help text of an image", "", run_help_command, nullptr, 0},
  {"seal", "", "[options] IMAGE", "bind the bytes of an image to a signed hash tree", "", nullptr, "postern-keys", 0},
  {"search", "", "[options] TEXT", "look for images in a library or a registry", "", nullptr, "postern-transfer", 0},
  {"shell", "", "[options] IMAGE", "start a shell in a container", "", shell_command, nullptr, kShell},
  {"sif", "siftool", "COMMAND", "look into SIF files and change them", "add del dump header info list new setprim", sif::sif_command, nullptr, 0},
  {"sign", "", "[options] IMAGE", "sign an image", "", nullptr, "postern-keys", 0},
  {"tag", "", "[options] URI TAG", "give an image in a registry another tag", "", nullptr, "postern-transfer", 0},
  {"test", "", "[options] IMAGE [ARGUMENT...]", "run the image's test script", "", test_command, nullptr, kTest},
  {"verify", "", "[options] IMAGE", "check the signatures of an image", "", nullptr, "postern-keys", 0},
  {"version", "", "", "show the version", "", version_command, nullptr, 0},
});
// clang-format on

constexpr bool is_sorted(std::span<const Command> table) {
  return std::is_sorted(table.begin(), table.end(),
                        [](const Command& a, const Command& b) { return a.name < b.name; });
}

static_assert(is_sorted(kCommands), "help and completions show the table's order");

std::string g_config_path = POSTERN_CONFDIR "/postern.toml";

std::string usage_line(const Command& command) {
  return "  postern [global options] " + std::string(command.name) +
         (command.usage.empty() ? "" : " ") + std::string(command.usage) + '\n';
}

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

const Command* find_command(std::string_view name) {
  for (const Command& command : kCommands) {
    if (command.name == name || (!command.alias.empty() && command.alias == name)) {
      return &command;
    }
  }
  return nullptr;
}

std::span<const option::Option> global_options() {
  return kGlobalOptions;
}

std::string help(const Command& command) {
  std::string text(command.summary);
  if (!text.empty()) {
    text[0] = static_cast<char>(text[0] - ('a' - 'A'));
    text += ".\n\n";
  }
  text += "Usage:\n" + usage_line(command);
  if (!command.subcommands.empty()) {
    text += "\nCommands: " + std::string(command.subcommands) + '\n';
  }
  if (command.options != 0) {
    text += "\nOptions:\n" + option::describe(action_options(), command.options) +
            "\nEach option has an environment variable: POSTERN_ and its name in capitals, as in\n"
            "POSTERN_BIND; APPTAINER_ and SINGULARITY_ work too. See postern(1).\n";
  }
  return text;
}

std::string general_help() {
  std::string text =
      "Postern runs containers as the calling user.\n\n"
      "Usage:\n  postern [global options] COMMAND [options] [ARGUMENT...]\n\nCommands:\n";
  for (const Command& command : kCommands) {
    if (!command.summary.empty()) {
      std::string line = "  " + std::string(command.name);
      line.resize(14, ' ');
      text += line + std::string(command.summary) + '\n';
    }
  }
  text += "\nGlobal options:\n" + option::describe(kGlobalOptions, kAll);
  text += "\nRun 'postern COMMAND --help' for the options of a command.\n";
  return text;
}

int report_usage_error(const Command& command, const Problem& problem) {
  const std::string name(command.name);
  return message::wrong_usage(name, problem.what,
                              "Usage:\n" + usage_line(command) + "\nRun 'postern " + name +
                                  " --help' for more detailed usage information.\n");
}

const std::string& config_path() {
  return g_config_path;
}

void set_config_path(std::string path) {
  g_config_path = std::move(path);
}

}  // namespace postern::cli
