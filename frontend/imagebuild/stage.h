// A stage of a definition file whose programs need a directory to work in.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "frontend/imagebuild/new_directory.h"
#include "frontend/imagebuild/options.h"
#include "frontend/imagebuild/plan.h"

namespace postern::imagebuild {

// Root directories of the stages that are built, by name.
using StageRoots = std::map<std::string, std::string>;

// Unpacks the stage's source into a directory, or takes the one of --update, and does in it what
// the sections say. The process is root of its namespace by then (build_namespace.h).
class StageBuild {
 public:
  // `last`: this stage becomes the image.
  StageBuild(const Recipe& recipe, const BuildOptions& options, const StageRoots& roots, bool last)
      : recipe_(recipe), options_(options), roots_(roots), last_(last) {}

  // Returns the plan of what the programs left. On failure the directory goes with this object, or
  // is kept if --no-cleanup says so.
  Outcome<Plan> work();

  [[nodiscard]] std::string path() const {
    return directory_ ? directory_->path() : options_.output;
  }

  // The directory gets the name that the user wanted.
  Outcome<> finish();

 private:
  Outcome<Plan> run();
  Outcome<> make_directory();
  Outcome<Plan> bootstrap();
  Outcome<> add_layout();
  Outcome<> copy_stage_files();
  Outcome<> copy_host_files();
  Outcome<> run_on_host(const Program& program, const std::string& what);
  Outcome<> run_in_container(const Program& program,
                             const std::string& what,
                             const std::string& directory);
  Outcome<> run_installs();
  Outcome<> run_test();
  [[nodiscard]] std::vector<std::string> container(const char* action,
                                                   const std::string& directory,
                                                   const std::string& writing) const;
  Outcome<std::map<std::string, std::string>> take_labels() const;

  const Recipe& recipe_;
  const BuildOptions& options_;
  const StageRoots& roots_;
  bool last_;
  std::optional<NewDirectory> directory_;
  Owners owners_;  // of files whose owners the namespace does not have
};

}  // namespace postern::imagebuild
