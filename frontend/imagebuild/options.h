// The command line of `build`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "frontend/imagebuild/remote.h"
#include "frontend/imagebuild/squash_writer.h"
#include "frontend/option/option.h"
#include "policy/problem.h"
#include "policy/sif/format.h"

namespace postern::imagebuild {

struct BuildOptions {
  std::string output;
  std::string source;
  SquashOptions squash;
  std::string architecture;                  // GOARCH name that the user wants, empty: the host's
  std::string temporary;                     // directory for temporary files
  std::optional<std::int64_t> epoch;         // SOURCE_DATE_EPOCH, seconds since 1970
  std::vector<std::string> sections;         // of a definition file; empty: all
  std::vector<std::string> build_arguments;  // NAME=VALUE
  std::string build_argument_file;
  std::vector<std::string> key;        // options that say with which key, for postern-crypt
  std::vector<std::string> container;  // options for %post and %test, handed to `postern exec`
  std::vector<std::string> notes;      // options that change nothing
  std::shared_ptr<Remote> remote;      // for sources that are not on this machine
  std::string variant;                 // of `architecture`
  std::string pin;                     // digest that a docker:// source must have now
  std::string elsewhere = "choose another place";  // the cure if `output` cannot be written
  bool sandbox = false;
  bool encrypt = false;
  bool force = false;
  bool update = false;
  bool fix_permissions = false;
  bool no_test = false;
  bool ignore_subordinate_ids = false;
  bool keep_privileged = false;  // see Privileged in directory_writer.h
  bool keep_on_failure = false;
  bool writable_tmpfs = false;  // for %test
  bool only_warn_of_unused_arguments = false;
};

// Every option of `build`, for the parser, the help text, completions and man page.
std::span<const option::Option> option_table();

// `words`: what follows "build". `environment`: environ(7). Errors: usage (kExitUsage), values that
// mean nothing.
Outcome<BuildOptions> parse_options(std::span<const std::string> words,
                                    const char* const* environment);

std::string usage_text();

// The directory for temporary files: --tmpdir (its variables included), else what the environment
// says, else /var/tmp.
std::string temporary_directory(const option::Arguments& arguments);
std::string temporary_directory();

}  // namespace postern::imagebuild
