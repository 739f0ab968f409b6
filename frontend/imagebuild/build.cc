#include "frontend/imagebuild/build.h"

#include <cerrno>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/build_namespace.h"
#include "frontend/imagebuild/container.h"
#include "frontend/imagebuild/directory_writer.h"
#include "frontend/imagebuild/new_directory.h"
#include "frontend/imagebuild/plan.h"
#include "frontend/imagebuild/stage.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "frontend/system/libexec.h"
#include "policy/sif/writer.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

bool confirmed(const std::string& question) {
  if (::isatty(STDIN_FILENO) != 1) {
    return false;
  }
  std::fprintf(stderr, "%s [y/N] ", question.c_str());
  const int answer = std::getchar();
  return answer == 'y' || answer == 'Y';
}

bool looks_like_sandbox(const std::string& path) {
  for (const char* name : {"/.singularity.d", "/dev", "/proc", "/sys"}) {
    if (::access((path + name).c_str(), F_OK) != 0) {
      return false;
    }
  }
  return true;
}

Outcome<> check_target(const BuildOptions& options) {
  struct stat status{};
  if (::lstat(options.output.c_str(), &status) != 0) {
    return errno == ENOENT ? Outcome<>()
                           : system_problem("looking at '" + options.output + "'", errno);
  }
  const bool directory = S_ISDIR(status.st_mode);
  std::error_code unreadable;  // then it is not known to be empty
  const std::string target = "build target '" + options.output + "'";
  if (directory != options.sandbox) {
    return Problem{.what = target + (directory ? " is a directory" : " is not a directory"),
                   .cure = directory ? "name a file, or add --sandbox"
                                     : "name a directory, or leave out --sandbox"};
  }
  if (options.force || options.update ||
      (directory && std::filesystem::is_empty(options.output, unreadable))) {
    return {};
  }
  if (directory && !looks_like_sandbox(options.output)) {
    return Problem{.what = target + " is a directory that is no sandbox and not empty",
                   .cure = "use --force to replace it with all that is in it"};
  }
  if (!confirmed("Build target '" + options.output + "' already exists. Replace it?")) {
    return Problem{.what = target + " already exists", .cure = "use --force to replace it"};
  }
  return {};
}

Outcome<> write_sif(Plan& plan, const BuildOptions& options, const std::string& output) {
  POSTERN_TRY_ASSIGN(
      sif::Writer writer,
      sif::Writer::create(output, {.deterministic = true, .elsewhere = options.elsewhere}));
  POSTERN_TRY(writer.add({.type = sif::DataType::kDefinition}, plan.description.definition));
  POSTERN_TRY(writer.add({.type = sif::DataType::kGenericJson, .name = "inspect-metadata.json"},
                         plan.description.inspect));
  const std::string& config =
      plan.description.oci_config.empty() ? plan.opened.oci_config : plan.description.oci_config;
  if (!config.empty()) {
    POSTERN_TRY(
        writer.add({.type = sif::DataType::kGenericJson, .name = "oci-config.json"}, config));
  }
  sif::ObjectInput partition;
  partition.type = sif::DataType::kPartition;
  partition.extra = sif::PartitionInfo{.fs = sif::FileSystem::kSquashfs,
                                       .type = sif::PartitionType::kPrimarySystem,
                                       .architecture = plan.facts.architecture};
  POSTERN_TRY_ASSIGN(const std::uint64_t offset, writer.begin(partition));
  SquashOptions squash = options.squash;
  squash.elsewhere = options.elsewhere;
  squash.time = plan.facts.time.value_or(plan.facts.newest);
  message::Progress progress("Squashing", plan.opened.source->bytes());
  POSTERN_TRY_ASSIGN(
      const std::uint64_t bytes,
      write_squashfs(plan.tree, *plan.opened.source, squash, writer.fd(), offset, progress));
  progress.hide();
  POSTERN_TRY(writer.end(bytes));
  return writer.finish();
}

// The plain image goes to a private directory for temporary files, loses its name there at once,
// and is read by postern-crypt through its descriptor.
Outcome<> write_encrypted(Plan& plan, const BuildOptions& options) {
  const std::string program = system::libexec_program("postern-crypt");
  if (::access(program.c_str(), X_OK) != 0) {
    return Problem{.what = "'" + program + "' is missing: images cannot be encrypted",
                   .cure = "install postern whole"};
  }
  UniqueFd plain;
  {
    POSTERN_TRY_ASSIGN(const NewDirectory place,
                       NewDirectory::create(options.temporary + "/postern-encrypt"));
    const std::string path = place.path() + "/image.sif";
    POSTERN_TRY(write_sif(plan, options, path));
    plain.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!plain.valid()) {
      return system_problem("opening '" + path + "'", errno);
    }
  }
  std::vector<std::string> words{"encrypt", "--force"};
  words.insert(words.end(), options.key.begin(), options.key.end());
  words.push_back("/proc/self/fd/" + std::to_string(plain.get()));
  words.push_back(options.output);
  return run_program(program, words, plain.get(), "encrypting");
}

Outcome<> write_sandbox(Plan& plan, const BuildOptions& options) {
  message::info("Creating sandbox directory...");
  POSTERN_TRY_ASSIGN(NewDirectory directory, NewDirectory::create(options.output));
  message::Progress progress("Unpacking", plan.opened.source->bytes());
  POSTERN_TRY(write_directory(plan.tree, *plan.opened.source, directory.path(),
                              options.keep_privileged ? Privileged::kKeep : Privileged::kLeaveOut,
                              progress));
  return directory.finish();
}

Outcome<> write_image(Plan& plan, const BuildOptions& options) {
  message::info("Creating SIF file...");
  return options.encrypt ? write_encrypted(plan, options)
                         : write_sif(plan, options, options.output);
}

// Stage by stage in directories; that of the last is the source of the image, or the result itself.
Outcome<> build_in_directories(const Recipe& recipe, const BuildOptions& options) {
  POSTERN_TRY(enter_build_namespace(
      {.ignore_subordinate_ids = options.ignore_subordinate_ids, .say = true}));
  std::deque<StageBuild> stages;  // their directories go at the end
  StageRoots roots;
  for (const Recipe& stage : recipe.earlier) {
    stages.emplace_back(stage, options, roots, false);
    POSTERN_TRY(stages.back().work());
    roots[stage.stage] = stages.back().path();
  }
  StageBuild image(recipe, options, roots, true);
  POSTERN_TRY_ASSIGN(Plan done, image.work());
  return options.sandbox ? image.finish() : write_image(done, options);
}

}  // namespace

Outcome<> convert(const BuildOptions& options) {
  POSTERN_TRY_ASSIGN(const Recipe recipe, make_recipe(options));
  if (recipe.spec.kind == SourceKind::kDefinition) {
    return Problem{.what = "'" + options.source + "' is a definition file, not an image"};
  }
  POSTERN_TRY_ASSIGN(Plan plan, plan_source(recipe, options));
  return write_sif(plan, options, options.output);
}

Outcome<> run_build(const BuildOptions& options) {
  POSTERN_TRY(check_target(options));
  POSTERN_TRY_ASSIGN(const Recipe recipe, make_recipe(options));
  message::info("Starting build...");
  if (recipe.needs_directory() || options.update) {
    POSTERN_TRY(build_in_directories(recipe, options));
  } else {
    POSTERN_TRY_ASSIGN(Plan plan, plan_source(recipe, options));
    POSTERN_TRY(options.sandbox ? write_sandbox(plan, options) : write_image(plan, options));
  }
  message::info("Build complete: " + options.output);
  return {};
}

}  // namespace postern::imagebuild
