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

// A section that is a program: its interpreter line, if it names one, and its text.
struct Program {
  std::string interpreter = "/bin/sh";
  std::vector<std::string> options;  // `%post -c /bin/bash`: of the interpreter's line
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
};

struct Stage {
  std::string name;                           // `Stage:`
  std::map<std::string, std::string> header;  // keys in lower case
  std::vector<FileCopy> files;
  std::optional<Program> post;
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

// Values for {{ NAME }}, from the command line; they beat the defaults of %arguments.
using BuildArguments = std::map<std::string, std::string>;

// Errors name the line. `unused` gets the arguments that nothing asked for.
Outcome<Definition> parse_definition(std::string_view text,
                                     const BuildArguments& arguments,
                                     std::vector<std::string>& unused);

// Words of a %files line: blanks separate, quotes and \ protect.
Outcome<std::vector<std::string>> split_words(std::string_view line);

}  // namespace postern::imagebuild
