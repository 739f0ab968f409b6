// Definition files: a header of "Key: value" lines, then sections that start with "%name".
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::imagebuild {

inline constexpr std::size_t kMaxDefinition = std::size_t{4} << 20;

// One line of %files.
struct FileCopy {
  std::string from;   // a path, may hold wildcards
  std::string to;     // "": the same path
  std::string stage;  // "": this host
};

// A section that is a program for this host or for the container.
struct Program {
  std::vector<std::string> words;  // behind the section's name: for the shell
  std::string text;
};

// SCIF: a program inside the image with an environment of its own.
struct App {
  std::optional<std::string> install;
  std::optional<std::string> environment;
  std::optional<std::string> run;
  std::optional<std::string> start;
  std::optional<std::string> test;
  std::optional<std::string> help;
  std::map<std::string, std::string> labels;
  std::vector<FileCopy> files;
  std::size_t order = 0;  // of its first section: apps are installed in that order
};

struct Stage {
  std::string name;                           // `Stage:`
  std::map<std::string, std::string> header;  // keys in lower case
  std::vector<FileCopy> files;
  std::optional<Program> pre;    // on this host, before the source is fetched
  std::optional<Program> setup;  // on this host, before %files
  std::optional<Program> post;   // in the container
  std::optional<std::string> environment;
  std::optional<std::string> runscript;
  std::optional<std::string> startscript;
  std::optional<std::string> test;
  std::optional<std::string> help;
  std::map<std::string, std::string> labels;
  std::map<std::string, App> apps;
};

struct Definition {
  std::vector<Stage> stages;  // the last one becomes the image
  std::string text;           // with its templates filled
};

// Values for {{ NAME }}, from the command line; they beat the defaults of a stage's %arguments.
using BuildArguments = std::map<std::string, std::string>;

// Windows line ends are taken. Errors name the line. `unused` gets the arguments that nothing asked
// for.
Outcome<Definition> parse_definition(std::string_view text,
                                     const BuildArguments& arguments,
                                     std::vector<std::string>& unused);

// The first instruction of `text` if it is one of a Dockerfile, else "".
std::string_view dockerfile_instruction(std::string_view text);

// Words of a %files line: blanks separate, quotes and \ protect.
Outcome<std::vector<std::string>> split_words(std::string_view line);

}  // namespace postern::imagebuild
