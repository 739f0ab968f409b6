#include "frontend/imagebuild/stage.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/bootstrap_tool.h"
#include "frontend/imagebuild/container.h"
#include "frontend/imagebuild/directory_source.h"
#include "frontend/imagebuild/directory_writer.h"
#include "frontend/imagebuild/host_files.h"
#include "frontend/imagebuild/stage_files.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "frontend/system/subids.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

// In the container's root while its programs run.
constexpr const char* kScript = ".postern.script";
constexpr const char* kLabels = ".postern.labels";
constexpr const char* kAptConfiguration = ".postern.apt.conf";

// apt downloads as the user _apt. A namespace of one id has no such user, and apt checks.
constexpr std::string_view kAptText = "APT::Sandbox::User \"root\";\n";

// A file in a directory that programs of the image have worked in: no link of theirs is followed.
class ScratchFile {
 public:
  ScratchFile(const std::string& root, const char* name)
      : root_(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)), name_(name) {}

  ~ScratchFile() { remove(); }

  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ScratchFile(ScratchFile&&) = delete;
  ScratchFile& operator=(ScratchFile&&) = delete;

  Outcome<> write(std::string_view text) const {
    remove();
    const UniqueFd fd = open_beneath(root_.get(), name_, O_WRONLY | O_CREAT | O_EXCL, 0700);
    const bool written =
        fd.valid() && ::fchmod(fd.get(), 0755) == 0 &&
        ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
    return written ? Outcome<>() : system_problem("writing '" + std::string(name_) + "'", errno);
  }

  // At most kMaxCaptured bytes; nothing if there is no file.
  [[nodiscard]] Outcome<std::string> read() const {
    const UniqueFd fd = open_beneath(root_.get(), name_, O_RDONLY | O_NONBLOCK);
    std::string text(fd.valid() ? kMaxCaptured : 0, '\0');
    const ssize_t got = fd.valid() ? ::read(fd.get(), text.data(), text.size()) : 0;
    if (got < 0) {
      return system_problem("reading '" + std::string(name_) + "'", errno);
    }
    text.resize(static_cast<std::size_t>(got));
    return text;
  }

 private:
  void remove() const { ::unlinkat(root_.get(), name_, 0); }

  UniqueFd root_;
  const char* name_;
};

// "-c PROGRAM OPTIONS" runs the script by another program, as Apptainer has it: through the shell.
std::vector<std::string> shell_words(const Program& program, const std::string& script) {
  std::vector<std::string> words{"/bin/sh", "-ex"};
  if (!program.words.empty() && program.words[0] == "-c") {
    std::string command;
    for (auto word = program.words.begin() + 1; word != program.words.end(); ++word) {
      command += *word + " ";
    }
    words.insert(words.end(), {"-c", command + script});
    return words;
  }
  words.insert(words.end(), program.words.begin(), program.words.end());
  words.push_back(script);
  return words;
}

void set_build_variables(const std::string& root) {
  for (const std::string prefix : {"POSTERN", "APPTAINER", "SINGULARITY"}) {
    ::setenv((prefix + "_ROOTFS").c_str(), root.c_str(), 1);
    ::setenv((prefix + "_ENVIRONMENT").c_str(), "/.singularity.d/env/91-environment.sh", 1);
  }
}

void clear_build_variables() {
  for (const std::string prefix : {"POSTERN", "APPTAINER", "SINGULARITY"}) {
    ::unsetenv((prefix + "_ROOTFS").c_str());
    ::unsetenv((prefix + "_ENVIRONMENT").c_str());
  }
}

}  // namespace

std::vector<std::string> StageBuild::container(const char* action,
                                               const std::string& directory,
                                               const std::string& writing) const {
  std::vector<std::string> words{action,         "--userns",  "--fakeroot",
                                 "--cleanenv",   "--no-home", "--no-mount",
                                 "tmp,cwd,home", "--pwd",     directory};
  if (!writing.empty()) {
    words.push_back(writing);
  }
  const auto set = [&](const std::string& setting) {
    words.emplace_back("--env");
    words.push_back(setting);
  };
  for (const std::string prefix : {"POSTERN", "APPTAINER", "SINGULARITY"}) {
    set(prefix + "_ENVIRONMENT=/.singularity.d/env/91-environment.sh");
    set(prefix + "_LABELS=/" + kLabels);
  }
  if (!system::holds_id(system::own_user_ids(), 1)) {
    set("APT_CONFIG=/" + std::string(kAptConfiguration));
  }
  words.insert(words.end(), options_.container.begin(), options_.container.end());
  words.push_back(path());
  return words;
}

Outcome<> StageBuild::run_on_host(const Program& program, const std::string& what) {
  POSTERN_TRY_ASSIGN(const NewDirectory place,
                     NewDirectory::create(options_.temporary + "/postern-script"));
  const ScratchFile script(place.path(), kScript);
  POSTERN_TRY(script.write(program.text));
  message::info("Running " + what.substr(1) + " scriptlet");
  std::vector<std::string> words = shell_words(program, place.path() + "/" + kScript);
  words.erase(words.begin());
  set_build_variables(path());
  const auto done = run_program("/bin/sh", words, -1, what);
  clear_build_variables();
  return done;
}

Outcome<> StageBuild::run_in_container(const Program& program,
                                       const std::string& what,
                                       const std::string& directory) {
  const ScratchFile script(path(), kScript);
  POSTERN_TRY(script.write(program.text));
  const ScratchFile apt(path(), kAptConfiguration);
  POSTERN_TRY(apt.write(kAptText));
  message::info("Running " + what.substr(1) + " scriptlet");
  std::vector<std::string> words = container("exec", directory, "--writable");
  const std::vector<std::string> shell = shell_words(program, "/" + std::string(kScript));
  words.insert(words.end(), shell.begin(), shell.end());
  return run_postern(words, what);
}

// One script a app: in the app's directory, with its variables.
Outcome<> StageBuild::run_installs() {
  for (const auto& [name, text] : recipe_.installs) {
    const std::string root = "/scif/apps/" + name;
    const Program program{.words = {},
                          .text = ". " + root + "/scif/env/01-base.sh\n" + text + "\n"};
    POSTERN_TRY(run_in_container(program, "%appinstall " + name, root));
  }
  return {};
}

Outcome<> StageBuild::run_test() {
  message::info("Running testscript");
  const ScratchFile apt(path(), kAptConfiguration);
  POSTERN_TRY(apt.write(kAptText));
  // What it writes is no part of the image.
  return run_postern(container("test", "/", options_.writable_tmpfs ? "--writable-tmpfs" : ""),
                     "%test");
}

Outcome<std::map<std::string, std::string>> StageBuild::take_labels() const {
  const ScratchFile file(path(), kLabels);
  POSTERN_TRY_ASSIGN(const std::string text, file.read());
  return parse_label_lines(text);
}

Outcome<> StageBuild::make_directory() {
  if (last_ && options_.update) {
    return {};
  }
  const bool in_place = last_ && options_.sandbox;
  POSTERN_TRY_ASSIGN(
      NewDirectory made,
      NewDirectory::create(in_place ? options_.output : options_.temporary + "/postern-build"));
  directory_.emplace(std::move(made));
  return {};
}

// What the source gives, with mount points and without the texts of the definition file.
Outcome<Plan> StageBuild::bootstrap() {
  if (recipe_.tool) {
    POSTERN_TRY(run_bootstrap_tool(*recipe_.tool, recipe_.header, path(), options_));
    return Plan{};
  }
  POSTERN_TRY_ASSIGN(Plan plan, plan_draft(recipe_, options_));
  if (last_ && options_.update) {
    POSTERN_TRY(write_additions(plan.tree, nullptr, path()));
    return plan;
  }
  owners_ = foreign_owners(plan.tree);
  message::Progress progress("Unpacking", plan.opened.source->bytes());
  POSTERN_TRY(write_directory(plan.tree, *plan.opened.source, path(), Privileged::kKeep, progress));
  return plan;
}

// Mount points and app folders in what a program of this host has made.
Outcome<> StageBuild::add_layout() {
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Source> source, directory_source(path(), {}));
  POSTERN_TRY_ASSIGN(Tree tree, source->index());
  POSTERN_TRY(prepare_layout(tree, {}, recipe_.scripts, {}));
  tree.finish();
  return write_additions(tree, nullptr, path());
}

Outcome<> StageBuild::copy_stage_files() {
  for (const FileCopy& copy : recipe_.files) {
    if (copy.stage.empty()) {
      continue;
    }
    const auto root = roots_.find(copy.stage);
    if (root == roots_.end()) {
      return Problem{
          .what = "%files from " + copy.stage + ": there is no such stage before this one",
          .cure = "name a stage with 'Stage: " + copy.stage + "' further up"};
    }
    POSTERN_TRY(copy_from_stage(root->second, path(), copy));
  }
  return {};
}

Outcome<> StageBuild::copy_host_files() {
  const bool any = std::any_of(recipe_.files.begin(), recipe_.files.end(),
                               [](const FileCopy& copy) { return copy.stage.empty(); });
  if (!any) {
    return {};
  }
  POSTERN_TRY_ASSIGN(std::unique_ptr<Source> source, directory_source(path(), {}));
  HostFiles files(std::move(source));
  POSTERN_TRY_ASSIGN(Tree tree, files.index());
  for (const FileCopy& copy : recipe_.files) {
    if (copy.stage.empty()) {
      POSTERN_TRY(files.copy(tree, copy.from, copy.to));
    }
  }
  tree.finish();
  return write_additions(tree, [&](InodeId id) { return files.open(id); }, path());
}

Outcome<Plan> StageBuild::run() {
  POSTERN_TRY(make_directory());
  if (recipe_.pre) {
    POSTERN_TRY(run_on_host(*recipe_.pre, "%pre"));
  }
  POSTERN_TRY_ASSIGN(const Plan plan, bootstrap());
  if (recipe_.tool) {
    POSTERN_TRY(add_layout());
  }
  POSTERN_TRY(copy_stage_files());
  if (recipe_.setup) {
    POSTERN_TRY(run_on_host(*recipe_.setup, "%setup"));
  }
  POSTERN_TRY(copy_host_files());
  if (recipe_.post) {
    POSTERN_TRY(run_in_container(*recipe_.post, "%post", "/"));
  }
  POSTERN_TRY(run_installs());
  Recipe after = recipe_;
  POSTERN_TRY_ASSIGN(after.scripts.built_labels, take_labels());
  POSTERN_TRY_ASSIGN(
      Plan done, plan_directory(path(), owners_, after, recipe_.tool ? nullptr : &plan, options_));
  POSTERN_TRY(write_additions(done.tree, nullptr, path()));
  if (recipe_.run_test) {
    POSTERN_TRY(run_test());
  }
  return done;
}

Outcome<Plan> StageBuild::work() {
  auto done = run();
  if (!done && options_.keep_on_failure && directory_) {
    message::warning("the sandbox is kept in '" + directory_->keep() + "'");
    directory_.reset();
  }
  return done;
}

Outcome<> StageBuild::finish() {
  if (!directory_) {
    return {};
  }
  if (!options_.keep_privileged) {
    POSTERN_TRY(take_privileges(path()));
  }
  return directory_->finish();
}

}  // namespace postern::imagebuild
