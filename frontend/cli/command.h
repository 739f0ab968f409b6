// The commands of bin/postern.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "frontend/option/option.h"

namespace postern::cli {

// Words after the command's name; returns the exit status.
using Handler = int (*)(std::span<const std::string> words);

struct Command {
  std::string_view name;
  std::string_view alias;        // another name, may be empty
  std::string_view usage;        // what follows the name
  std::string_view summary;      // one line; empty = hidden
  std::string_view subcommands;  // separated by spaces: for help and completions
  Handler handler;               // in this program, or
  const char* program;           // a program of libexec, which gets the words unchanged
  option::CommandSet options;    // of action_options(), where the command takes those
};

// In alphabetical order.
std::span<const Command> commands();
// nullptr where there is none.
const Command* find_command(std::string_view name);

std::span<const option::Option> global_options();

// The text of --help.
std::string help(const Command& command);
std::string general_help();

// A usage error: "Error for command …", the usage line and a hint on standard error.
int report_usage_error(const Command& command, const Problem& problem);

// Becomes the command's program; returns only where that fails.
int run_program(const Command& command, std::span<const std::string> words);

// The name by which this program was started: tools look for "apptainer" and "singularity", and ask
// those for a version that they know.
void set_called_as(std::string_view name);
[[nodiscard]] bool is_called_apptainer();
void print_version();  // of --version

// The path of --config, or of the installed file.
const std::string& config_path();
void set_config_path(std::string path);

// --- handlers
int exec_command(std::span<const std::string> words);
int run_command(std::span<const std::string> words);
int shell_command(std::span<const std::string> words);
int test_command(std::span<const std::string> words);
int version_command(std::span<const std::string> words);
int buildcfg_command(std::span<const std::string> words);
int help_command(std::span<const std::string> words);
int completion_command(std::span<const std::string> words);
int instance_command(std::span<const std::string> words);
int run_help_command(std::span<const std::string> words);
int capability_command(std::span<const std::string> words);
int config_command(std::span<const std::string> words);

// Of Apptainer, and not here: they say why.
int checkpoint_command(std::span<const std::string> words);
int oci_command(std::span<const std::string> words);
int plugin_command(std::span<const std::string> words);

}  // namespace postern::cli
