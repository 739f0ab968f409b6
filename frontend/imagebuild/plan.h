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
  bool from_nothing = false;        // `Bootstrap: scratch`
  std::optional<std::string> tool;  // `Bootstrap: debootstrap` and the like (bootstrap_tool.h)
  std::map<std::string, std::string> header;  // for the tool
  SourceSpec spec;
  Scripts scripts;
  std::vector<FileCopy> files;
  std::optional<Program> pre;
  std::optional<Program> setup;
  std::optional<Program> post;
  std::vector<std::pair<std::string, std::string>> installs;  // app and text of its %appinstall
  bool run_test = false;
  std::vector<std::string> fingerprints;  // keys that must have signed the source
  std::string stage;                      // its name, may be empty
  std::vector<Recipe> earlier;            // stages before this one, which becomes the image

  // Programs, and copies from other stages, work in a directory.
  [[nodiscard]] bool needs_directory() const;
};

struct Plan {
  OpenedSource opened;
  Tree tree;
  Facts facts;
  Description description;
};

// Path to owner, for files whose owner a directory of this process's user namespace cannot show.
using Owners = std::map<std::string, std::pair<std::uint32_t, std::uint32_t>>;
Owners foreign_owners(const Tree& tree);

Outcome<Recipe> make_recipe(const BuildOptions& options);

// Opens the source, reads it and adds %files and the layout. With --update, the present sandbox is
// the source.
Outcome<Plan> plan_source(const Recipe& recipe, const BuildOptions& options);

// The same without %files and texts, for programs that work in the unpacked tree before the image
// gets those.
Outcome<Plan> plan_draft(const Recipe& recipe, const BuildOptions& options);

// The same for the sandbox at `path` that programs of the build have worked in. Files that `owners`
// knows and that are root's now get their owners back. `before`: the plan that it was unpacked by;
// null: a program of this host filled it.
Outcome<Plan> plan_directory(const std::string& path,
                             const Owners& owners,
                             const Recipe& recipe,
                             const Plan* before,
                             const BuildOptions& options);

// "NAME VALUE" lines.
std::map<std::string, std::string> parse_label_lines(const std::string& text);

}  // namespace postern::imagebuild
