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

#include "frontend/init/oci_script.h"
#include "frontend/init/payload.h"
#include "frontend/message/message.h"
#include "frontend/system/elf.h"

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
  const bool at_home = !record.home.empty() && ::chdir(record.home.c_str()) == 0;
  if (!at_home && ::chdir("/") != 0) {
    return system_problem("entering /", errno);
  }
  if (record.cwd_expected && !record.cwd.empty()) {
    message::warning("the current directory " + record.cwd +
                     " cannot be entered in the container (" + strerrordesc_np(err) +
                     "): starting in " + (at_home ? record.home : "/"));
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

// A library of the host needs the C library of its host, or a newer one; its program ends with
// "version `GLIBC_2.N' not found" if the image's is older.
void report_old_glibc(const LaunchRecord& record) {
  if (record.glibc_needed == 0) {
    return;
  }
  static constexpr std::array kPlaces = {"/lib64/libc.so.6",
                                         "/lib/x86_64-linux-gnu/libc.so.6",
                                         "/lib/aarch64-linux-gnu/libc.so.6",
                                         "/usr/lib64/libc.so.6",
                                         "/usr/lib/x86_64-linux-gnu/libc.so.6",
                                         "/usr/lib/aarch64-linux-gnu/libc.so.6",
                                         "/usr/lib/libc.so.6",
                                         "/lib/libc.so.6"};
  for (const char* const place : kPlaces) {
    const unsigned has = system::glibc_of(place);
    if (has >= record.glibc_needed) {
      return;
    }
    if (has > 0) {
      message::warning("the host's " + record.glibc_needed_by + " needs glibc 2." +
                       std::to_string(record.glibc_needed) + " and the image has 2." +
                       std::to_string(has) +
                       ": programs that load it will fail; use an image with a newer glibc, or one "
                       "that has these libraries itself");
      return;
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
  report_old_glibc(record);
  ::umask(record.umask);
  restore_signals(record);
  return enter_directory(record);
}

Outcome<> install_filters(const LaunchRecord& record) {
  for (const std::vector<std::uint8_t>& bytes : record.filters) {
    std::vector<sock_filter> program(bytes.size() / sizeof(sock_filter));
    std::copy_n(bytes.begin(), program.size() * sizeof(sock_filter),
                reinterpret_cast<std::uint8_t*>(program.data()));
    const sock_fprog filter = {.len = static_cast<unsigned short>(program.size()),
                               .filter = program.data()};
    if (program.size() > BPF_MAXINSNS || bytes.size() % sizeof(sock_filter) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) != 0) {
      return system_problem("installing the seccomp filter", errno);
    }
  }
  return Ok{};
}

ImageEnvironment run_environment_scripts(const LaunchRecord& record, shell::Reach reach) {
  ImageEnvironment result;
  shell::Session session(base_environment(record), reach);
  for (const std::string& path : environment_scripts()) {
    const std::optional<std::string> text = read_script(path.c_str());
    if (!text) {
      result.warnings.push_back("environment script " + path + " cannot be read: skipped");
      continue;
    }
    const shell::Run run = session.run(*text, path);
    if (run.ended == shell::Ended::kBeyond) {
      result.complete = false;
      return result;
    }
    for (const std::string& message : run.messages) {
      result.warnings.push_back(path + ": " + message);
    }
    if (run.ended == shell::Ended::kSyntax) {
      result.warnings.push_back(path +
                                " is not executed: it is no shell script that postern reads");
    }
    if (run.ended == shell::Ended::kExit) {
      result.exit = run.status;
      break;
    }
  }
  result.environment = session.environment();
  result.environment.drop_unexported();
  return result;
}

void set_working_directory(shell::Environment& environment) {
  std::array<char, PATH_MAX> path = {};
  if (::getcwd(path.data(), path.size()) != nullptr) {
    environment.set("PWD", path.data());
  }
}

std::optional<int> run_in_place(const LaunchRecord& record) {
  if (record.reaper) {
    return std::nullopt;
  }
  ImageEnvironment image = run_environment_scripts(record, shell::Reach::kFiles);
  if (!image.complete) {
    return std::nullopt;
  }
  restore_host(image.environment, record);
  if (!apply_forwarded(image.environment, record, shell::Reach::kFiles)) {
    return std::nullopt;
  }
  for (const std::string& warning : image.warnings) {
    message::warning(warning);
  }
  if (image.exit) {
    return image.exit;
  }
  Outcome<> ready = settle(record);
  if (ready) {
    ready = install_filters(record);
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
