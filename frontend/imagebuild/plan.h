// From the command line, and a definition file where there is one, to all that is known before the
// image is written.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "frontend/imagebuild/definition.h"
#include "frontend/imagebuild/layout.h"
#include "frontend/imagebuild/open_source.h"
#include "frontend/imagebuild/options.h"
#include "frontend/imagebuild/spec.h"

namespace postern::imagebuild {

// What to build: the source, and what a definition file adds to it.
struct Recipe {
  bool from_nothing = false;  // `Bootstrap: scratch`
  SourceSpec spec;
  Scripts scripts;
  std::vector<FileCopy> files;
  std::optional<Program> post;
  std::map<std::string, Program> installs;  // %appinstall by app
  bool run_test = false;

  [[nodiscard]] bool needs_container() const { return post || !installs.empty() || run_test; }
};

struct Plan {
  OpenedSource opened;
  Tree tree;
  Facts facts;
  Description description;
};

// Path to owner, for files whose owner an unprivileged sandbox cannot show.
using Owners = std::map<std::string, std::pair<std::uint32_t, std::uint32_t>>;
Owners owners_of(const Tree& tree);

Outcome<Recipe> make_recipe(const BuildOptions& options);

// Opens the source, reads it and adds %files and the layout. With --update, the present sandbox is
// the source.
Outcome<Plan> plan_source(const Recipe& recipe, const BuildOptions& options);

// The same for the sandbox at `path` that programs of the build have worked in. Files that `owners`
// knows and that are root's now get their owners back.
Outcome<Plan> plan_directory(const std::string& path,
                             const Owners& owners,
                             const Recipe& recipe,
                             const Plan& before,
                             const BuildOptions& options);

// "NAME VALUE" lines.
std::map<std::string, std::string> parse_label_lines(const std::string& text);

}  // namespace postern::imagebuild
