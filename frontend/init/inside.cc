#include "frontend/init/inside.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/init/env_script.h"
#include "frontend/init/payload.h"
#include "frontend/message/message.h"

namespace postern::init {
namespace {

constexpr const char* kScriptDirectory = "/.singularity.d/env";
constexpr const char* kOldScript = "/environment";  // images without /.singularity.d/env

// The caller's own signal state; what the runtime needed for itself ends here.
void restore_signals(const LaunchRecord& record) {
  for (int number = 1; number < NSIG; ++number) {
    const bool ignored = (record.ignored_signals >> (number - 1) & 1) != 0;
    ::signal(number, ignored ? SIG_IGN : SIG_DFL);
  }
  sigset_t blocked;
  ::sigemptyset(&blocked);
  for (int number = 1; number < NSIG; ++number) {
    if ((record.blocked_signals >> (number - 1) & 1) != 0) {
      ::sigaddset(&blocked, number);
    }
  }
  ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
}

Outcome<> enter_directory(const LaunchRecord& record) {
  if (!record.cwd.empty() && ::chdir(record.cwd.c_str()) == 0) {
    return Ok{};
  }
  const int err = errno;
  if (record.cwd_required) {
    return system_problem("entering the working directory " + record.cwd, err,
                          "give a directory of the container with --cwd");
  }
  if (!record.home.empty() && ::chdir(record.home.c_str()) == 0) {
    return Ok{};
  }
  if (::chdir("/") != 0) {
    return system_problem("entering /", errno);
  }
  return Ok{};
}

std::vector<std::string> environment_scripts() {
  std::vector<std::string> scripts;
  DIR* const directory = ::opendir(kScriptDirectory);
  if (directory == nullptr) {
    if (::access(kOldScript, R_OK) == 0) {
      scripts.emplace_back(kOldScript);
    }
    return scripts;
  }
  while (const dirent* const entry = ::readdir(directory)) {
    const std::string_view name(entry->d_name);
    if (name.size() > 3 && name.ends_with(".sh") && name[0] != '.') {
      scripts.push_back(std::string(kScriptDirectory) + "/" + entry->d_name);
    }
  }
  ::closedir(directory);
  std::sort(scripts.begin(), scripts.end());
  return scripts;
}

// A minimal /dev is a tmpfs of the caller's: its links need no privilege.
void make_links(const LaunchRecord& record) {
  for (const std::string& link : record.links) {
    const auto equals = link.find('=');
    const std::string path = link.substr(0, equals);
    if (::symlink(link.c_str() + equals + 1, path.c_str()) != 0 && errno != EEXIST) {
      message::warning("the link " + path + " cannot be made: " + strerrordesc_np(errno));
    }
  }
}

// STATX_ATTR_MOUNT_ROOT: the place is what a mount shows, not a directory of the image.
void report_missing_mounts(const LaunchRecord& record) {
  for (const std::string& place : record.optional) {
    struct statx status{};
    if (::statx(AT_FDCWD, place.c_str(), AT_NO_AUTOMOUNT, STATX_TYPE, &status) != 0 ||
        (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0) {
      message::warning("nothing is mounted at " + place +
                       ": its source or its place in the image is missing");
    }
  }
}

}  // namespace

Outcome<> settle(const LaunchRecord& record) {
  // The mode's own code has done this; a payload must not run if it failed to.
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) {
    return Problem{.what = "no_new_privs is not set: not starting the payload"};
  }
  make_links(record);
  report_missing_mounts(record);
  ::umask(record.umask);
  restore_signals(record);
  return enter_directory(record);
}

Outcome<> install_filter(const LaunchRecord& record) {
  if (record.seccomp.empty()) {
    return Ok{};
  }
  std::vector<sock_filter> program(record.seccomp.size() / sizeof(sock_filter));
  std::copy_n(record.seccomp.begin(), program.size() * sizeof(sock_filter),
              reinterpret_cast<std::uint8_t*>(program.data()));
  const sock_fprog filter = {.len = static_cast<unsigned short>(program.size()),
                             .filter = program.data()};
  if (program.size() > BPF_MAXINSNS || record.seccomp.size() % sizeof(sock_filter) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0) {
    return system_problem("installing the seccomp filter", errno);
  }
  return Ok{};
}

std::string quoted(std::string_view text, char special, std::string_view replacement, char quote) {
  std::string out(1, quote);
  for (const char c : text) {
    if (c == special) {
      out += replacement;
    } else {
      out += c;
    }
  }
  out += quote;
  return out;
}

ImageEnvironment run_environment_scripts(const LaunchRecord& record) {
  ImageEnvironment result;
  result.environment = base_environment(record);
  for (const std::string& path : environment_scripts()) {
    struct stat info = {};
    if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) ||
        ::access(path.c_str(), R_OK) != 0) {
      result.warnings.push_back("environment script " + path + " is not a readable file: skipped");
      continue;
    }
    const std::optional<std::string> text = read_script(path.c_str());
    Environment changed = result.environment;
    if (text && interpret(*text, changed)) {
      result.environment = std::move(changed);
    } else {
      result.plain = false;
    }
    result.commands += ". " + quoted(path, '\'', "'\\''", '\'') + '\n';
  }
  result.environment.drop_unexported();
  return result;
}

void set_working_directory(Environment& environment) {
  std::array<char, PATH_MAX> path = {};
  if (::getcwd(path.data(), path.size()) != nullptr) {
    environment.set("PWD", path.data());
  }
}

std::optional<int> run_in_place(const LaunchRecord& record) {
  if (record.reaper) {
    return std::nullopt;
  }
  ImageEnvironment image = run_environment_scripts(record);
  if (!image.plain) {
    return std::nullopt;
  }
  restore_host(image.environment, record);
  if (!apply_forwarded(image.environment, record).empty()) {
    return std::nullopt;
  }
  for (const std::string& warning : image.warnings) {
    message::warning(warning);
  }
  Outcome<> ready = settle(record);
  if (ready) {
    ready = install_filter(record);
  }
  if (!ready) {
    message::fatal(ready.error());
    return ready.error().exit_code;
  }
  finish_search_paths(image.environment, record);
  set_working_directory(image.environment);
  return run_payload(record, image.environment);
}

}  // namespace postern::init
