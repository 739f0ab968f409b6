// Options: one table a command family, from which the parser, the environment, the help text, the
// shell completions and the man page check are all made. Semantics are those of pflag (the parser
// of Apptainer's command line): "--name=value", "--name value", "-n value", "-nvalue", "-n=value",
// "-ab" for two flags, "--flag=false", "--" ends the options.
//
// Why not CLI11: building its options for `exec` costs 190 us at every start (measured, 85 options)
// and it knows neither this environment lookup nor completions. This costs below 10 us.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::option {

enum class Kind : std::uint8_t {
  kFlag,   // present or not; "--flag=false" takes it back
  kText,   // one value, the last one counts
  kList,   // values split at commas, occurrences add up
  kArray,  // every occurrence is one value (its own syntax has commas): --bind, --mount
};

// Which commands have an option, as a bit set. One table serves a family of commands.
using CommandSet = std::uint32_t;

struct Option {
  std::string_view name;  // long name, without "--"
  char letter;            // 0 where there is none
  std::string_view keys;  // environment names behind POSTERN_, APPTAINER_, SINGULARITY_: "A,B"
  Kind kind;
  CommandSet commands;
  std::string_view value;  // what the value is called in the help text: "FILE"
  std::string_view help;   // one line; empty = hidden
  // Not empty: the option exists in Apptainer but not here. Using it is an error with this cure.
  std::string_view refusal = {};
  // The environment adds to the command line instead of giving way to it.
  bool environment_adds = false;
  // Not empty: the option exists in Apptainer and changes nothing here, for this reason. It is
  // taken, because scripts and profiles of sites hold it.
  std::string_view ignored = {};
};

// What a command line and the environment said. Values in order of appearance.
class Arguments {
 public:
  Arguments(std::span<const Option> table, CommandSet commands)
      : table_(table), commands_(commands), values_(table.size()) {}

  // All by long name, which must be in the table. A name may have a row for each command: that of
  // this one answers.
  [[nodiscard]] bool given(std::string_view name) const;  // by either; a flag: and not "=false"
  [[nodiscard]] std::string_view text(std::string_view name) const;  // "" where not given
  [[nodiscard]] const std::vector<std::string>& values(std::string_view name) const;
  [[nodiscard]] bool on_command_line(std::string_view name) const;

  [[nodiscard]] const std::vector<std::string>& positional() const { return positional_; }

  // Sentences for message::warning: variables that contradict each other.
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }

  // Sentences for message::verbose: options that change nothing.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  struct Values {
    std::vector<std::string> list;
    bool command_line = false;
    bool on = false;  // kFlag
  };
  friend class Parser;
  [[nodiscard]] std::size_t index(std::string_view name) const;

  std::span<const Option> table_;
  CommandSet commands_ = 0;
  std::vector<Values> values_;
  std::vector<std::string> positional_;
  std::vector<std::string> warnings_;
  std::vector<std::string> notes_;
};

// Reads `words` (without program and command name) against the options of `commands` in `table`;
// the first word that is no option ends the options where `stop_at_positional`. Then `environment`
// (NAME=VALUE, as environ(7)) fills what the command line left open: POSTERN_ before APPTAINER_
// before SINGULARITY_; empty and blank values count as unset.
// Error: a usage error (kExitUsage); a refused option is kExitFatal.
Outcome<Arguments> parse(std::span<const Option> table,
                         CommandSet commands,
                         std::span<const std::string> words,
                         const char* const* environment,
                         bool stop_at_positional);

// The "Options:" part of a help text.
std::string describe(std::span<const Option> table, CommandSet commands);

}  // namespace postern::option
