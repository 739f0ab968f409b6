#include "frontend/imagebuild/build.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/container.h"
#include "frontend/imagebuild/directory_writer.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/imagebuild/plan.h"
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
  POSTERN_TRY_ASSIGN(sif::Writer writer, sif::Writer::create(output, {.deterministic = true}));
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

// The programs of a definition file need a directory: a container that they may write to.
class Workshop {
 public:
  Workshop(const Recipe& recipe, const BuildOptions& options)
      : recipe_(recipe), options_(options) {}

  // Unpacks `plan`, or with --update takes what is there, and runs the programs. Returns the plan
  // of what they left.
  Outcome<Plan> work(Plan plan);

  // The directory gets the name that the user wanted.
  Outcome<> keep() { return directory_ ? directory_->finish() : Outcome<>(); }

 private:
  Outcome<> run_script(const Program& program,
                       const std::string& what,
                       const std::string& directory);
  [[nodiscard]] std::vector<std::string> container(const char* action,
                                                   const std::string& directory) const;
  Outcome<std::map<std::string, std::string>> take_labels() const;

  [[nodiscard]] std::string path() const {
    return directory_ ? directory_->path() : options_.output;
  }

  const Recipe& recipe_;
  const BuildOptions& options_;
  std::optional<NewDirectory> directory_;
};

constexpr const char* kScript = "/.postern.script";
constexpr const char* kLabels = "/.postern.labels";

std::vector<std::string> Workshop::container(const char* action,
                                             const std::string& directory) const {
  std::vector<std::string> words{action,         "--fakeroot", "--writable",
                                 "--cleanenv",   "--no-home",  "--no-mount",
                                 "tmp,cwd,home", "--pwd",      directory};
  for (const char* prefix : {"POSTERN", "APPTAINER", "SINGULARITY"}) {
    words.push_back("--env");
    words.push_back(std::string(prefix) + "_ENVIRONMENT=/.singularity.d/env/91-environment.sh," +
                    prefix + "_LABELS=" + kLabels);
  }
  words.insert(words.end(), options_.container.begin(), options_.container.end());
  words.push_back(path());
  return words;
}

Outcome<> Workshop::run_script(const Program& program,
                               const std::string& what,
                               const std::string& directory) {
  const std::string script = path() + kScript;
  {
    const UniqueFd fd(
        ::open(script.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0700));
    if (!fd.valid() || ::write(fd.get(), program.text.data(), program.text.size()) !=
                           static_cast<ssize_t>(program.text.size())) {
      return system_problem("writing '" + script + "'", errno);
    }
  }
  message::info("Running " + what + " scriptlet");
  std::vector<std::string> words = container("exec", directory);
  words.insert(words.end(), {program.interpreter, "-ex", kScript});
  const auto done = run_postern(words, what);
  ::unlink(script.c_str());
  return done;
}

Outcome<std::map<std::string, std::string>> Workshop::take_labels() const {
  std::map<std::string, std::string> labels;
  const std::string file = path() + kLabels;
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) {
    return labels;  // %post wrote none
  }
  std::string text(kMaxCaptured, '\0');
  const ssize_t got = ::read(fd.get(), text.data(), text.size());
  if (got < 0) {
    return system_problem("reading '" + file + "'", errno);
  }
  text.resize(static_cast<std::size_t>(got));
  ::unlink(file.c_str());
  return parse_label_lines(text);
}

Outcome<Plan> Workshop::work(Plan plan) {
  const Owners owners = owners_of(plan.tree);
  if (!options_.update) {
    const std::string target =
        options_.sandbox ? options_.output : options_.temporary + "/postern-build";
    POSTERN_TRY_ASSIGN(NewDirectory made, NewDirectory::create(target));
    directory_.emplace(std::move(made));
    message::Progress progress("Unpacking", plan.opened.source->bytes());
    POSTERN_TRY(write_directory(plan.tree, *plan.opened.source, path(), progress));
  } else {
    POSTERN_TRY(write_additions(plan.tree, *plan.opened.source, path()));
  }
  const auto failed = [&](Problem problem) {
    if (options_.keep_on_failure && directory_) {
      message::warning("the sandbox is kept in '" + path() + "'");
      directory_->keep();
    }
    return problem;
  };
  if (recipe_.post) {
    if (auto done = run_script(*recipe_.post, "%post", "/"); !done) {
      return failed(std::move(done).error());
    }
  }
  for (const auto& [name, program] : recipe_.installs) {
    if (auto done = run_script(program, "%appinstall " + name, "/scif/apps/" + name); !done) {
      return failed(std::move(done).error());
    }
  }
  Recipe after = recipe_;
  POSTERN_TRY_ASSIGN(const auto labels, take_labels());
  after.scripts.labels.insert(labels.begin(), labels.end());
  POSTERN_TRY_ASSIGN(Plan done, plan_directory(path(), owners, after, plan, options_));
  POSTERN_TRY(write_additions(done.tree, *done.opened.source, path()));
  if (recipe_.run_test) {
    message::info("Running testscript");
    if (auto tested = run_postern(container("test", "/"), "%test"); !tested) {
      return failed(std::move(tested).error());
    }
  }
  return done;
}

Outcome<> write_sandbox(Plan& plan, const BuildOptions& options) {
  message::info("Creating sandbox directory...");
  POSTERN_TRY_ASSIGN(NewDirectory directory, NewDirectory::create(options.output));
  message::Progress progress("Unpacking", plan.opened.source->bytes());
  POSTERN_TRY(write_directory(plan.tree, *plan.opened.source, directory.path(), progress));
  return directory.finish();
}

Outcome<> write_image(Plan& plan, const BuildOptions& options) {
  message::info("Creating SIF file...");
  return options.encrypt ? write_encrypted(plan, options)
                         : write_sif(plan, options, options.output);
}

// With programs to run, the sandbox is the source of the image, or the result itself.
Outcome<> build_with_programs(Plan plan, const Recipe& recipe, const BuildOptions& options) {
  Workshop workshop(recipe, options);
  POSTERN_TRY_ASSIGN(Plan done, workshop.work(std::move(plan)));
  return options.sandbox ? workshop.keep() : write_image(done, options);
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
  POSTERN_TRY_ASSIGN(Plan plan, plan_source(recipe, options));
  if (recipe.needs_container() || options.update) {
    POSTERN_TRY(build_with_programs(std::move(plan), recipe, options));
  } else {
    POSTERN_TRY(options.sandbox ? write_sandbox(plan, options) : write_image(plan, options));
  }
  message::info("Build complete: " + options.output);
  return {};
}

}  // namespace postern::imagebuild
