// postern-init: the first program inside the container. Static, unprivileged, executed by
// descriptor with the launch record on descriptor 3; becomes the payload.
//
// Where the image's environment scripts need a shell, the image's /bin/sh sources them and executes
// this program again ("environment"): one process, so that `ulimit`, `cd` and `exit` in a script
// mean what they say. The same once more for forwarded values with command substitution ("values").
#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/init/inside.h"
#include "frontend/init/payload.h"
#include "frontend/init/reaper.h"
#include "frontend/init/record.h"
#include "frontend/message/message.h"
#include "protocol/base/unique_fd.h"
#include "protocol/exit_codes.h"
#include "protocol/limits.h"

namespace postern::init {
namespace {

constexpr int kRecordFd = 3;
constexpr int kSelfFd = 4;  // this program, for the shell to come back to
constexpr const char* kSelfPath = "/proc/self/fd/4";
constexpr const char* kShell = "/bin/sh";

[[noreturn]] void die(const Problem& problem) {
  message::fatal(problem);
  ::_exit(problem.exit_code);
}

LaunchRecord read_record() {
  struct stat info = {};
  if (::fstat(kRecordFd, &info) != 0 ||
      static_cast<std::uint64_t>(info.st_size) > kMaxRecordBytes) {
    die({.what = "postern-init is started by postern, with a launch record on descriptor 3"});
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  const ssize_t got = ::pread(kRecordFd, bytes.data(), bytes.size(), 0);
  Result<LaunchRecord> record = decode(bytes);
  if (got != info.st_size || !record) {
    die({.what = "the launch record is damaged",
         .cure = "postern and postern-init must be of one version: reinstall"});
  }
  return *std::move(record);
}

// Once, before anything of the image is looked at.
void begin(const LaunchRecord& record) {
  if (::close_range(kSelfFd, ~0U, 0) != 0) {
    die(system_problem("closing descriptors", errno));
  }
  if (record.reaper) {
    if (const int err = become_reaper(); err != 0) {
      die(system_problem("starting the payload's process", err,
                         "raise `ulimit -u`, or use --no-init"));
    }
  }
  Outcome<> ready = settle(record);
  if (ready) {
    ready = install_filter(record);
  }
  if (!ready) {
    die(std::move(ready).error());
  }
}

bool shell_is_usable(std::string_view what) {
  if (::access(kShell, X_OK) != 0) {
    message::warning(std::string(what) + " need a shell, and the image has no /bin/sh: skipped");
    return false;
  }
  UniqueFd self(::open("/proc/self/exe", O_PATH | O_CLOEXEC));
  // The shell inherits it: the copy of dup2(2) is not close-on-exec, and where it has the right
  // number already the flag is cleared.
  const int ready = self.get() == kSelfFd ? ::fcntl(self.release(), F_SETFD, 0)
                    : self.valid()        ? ::dup2(self.get(), kSelfFd)
                                          : -1;
  if (ready < 0) {
    message::warning(std::string(what) + " need a shell, which needs /proc: skipped");
    return false;
  }
  return true;
}

// `commands`, then this program again in the same process. Returns only on failure.
void continue_in_shell(std::string commands,
                       std::string_view phase,
                       const Environment& environment) {
  commands += "exec ";
  commands += kSelfPath;
  commands += ' ';
  commands += phase;
  commands += '\n';
  const int status = execute({kShell, "-c", std::move(commands)}, environment);
  ::_exit(status);
}

// Variables that shells make or change by themselves.
constexpr std::array<std::string_view, 4> kShellVariables = {"_", "SHLVL", "OLDPWD", "PWD"};

Environment inherited_environment() {
  Environment environment;
  for (char** one = environ; *one != nullptr; ++one) {
    environment.set(std::string_view(*one));
  }
  for (const std::string_view name : kShellVariables) {
    environment.unset(name);
  }
  return environment;
}

// Runs the image's environment scripts: natively if all are plain, else in the shell.
Environment image_environment(const LaunchRecord& record) {
  ImageEnvironment image = run_environment_scripts(record);
  for (const std::string& warning : image.warnings) {
    message::warning(warning);
  }
  if (!image.plain && shell_is_usable("environment scripts of the image")) {
    continue_in_shell(std::move(image.commands), "environment", base_environment(record));
  }
  return std::move(image.environment);
}

void evaluate_in_shell(const std::vector<std::string>& assignments, Environment& environment) {
  if (!shell_is_usable("values with shell expressions")) {
    for (const std::string& assignment : assignments) {
      environment.set(assignment);
    }
    return;
  }
  std::string commands;
  for (const std::string& assignment : assignments) {
    const auto equals = assignment.find('=');
    const std::string name = assignment.substr(0, equals);
    if (!is_identifier(name)) {
      continue;
    }
    commands += name + '=' +
                quoted(std::string_view(assignment).substr(equals + 1), '"', "\\\"", '"') +
                "\nexport " + name + '\n';
  }
  continue_in_shell(std::move(commands), "values", environment);
}

void restore_shell_variables(Environment& environment, const LaunchRecord& record) {
  for (const std::string& assignment : record.environment) {
    const std::string_view name = std::string_view(assignment).substr(0, assignment.find('='));
    if (std::find(kShellVariables.begin(), kShellVariables.end(), name) != kShellVariables.end()) {
      environment.set(assignment);
    }
  }
}

int run(std::string_view phase) {
  const LaunchRecord record = read_record();
  message::configure(static_cast<message::Level>(record.message_level), false);
  Environment environment;
  if (phase == "values") {
    environment = inherited_environment();
    restore_shell_variables(environment, record);
  } else {
    if (phase.empty()) {
      begin(record);
      environment = image_environment(record);
    } else {
      environment = inherited_environment();
    }
    restore_host(environment, record);
    const std::vector<std::string> rest = apply_forwarded(environment, record);
    if (!rest.empty()) {
      evaluate_in_shell(rest, environment);
    }
  }
  finish_search_paths(environment, record);
  set_working_directory(environment);
  // Also after a shell: the record and this program are not for the payload.
  ::fcntl(kRecordFd, F_SETFD, FD_CLOEXEC);
  ::fcntl(kSelfFd, F_SETFD, FD_CLOEXEC);
  return run_payload(record, environment);
}

}  // namespace
}  // namespace postern::init

int main(int argc, char** argv) {
  return postern::init::run(argc > 1 ? argv[1] : "");
}
