#include "frontend/imagebuild/container.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "frontend/imagebuild/guarded.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/plan/fakeroot.h"
#include "frontend/system/argv.h"
#include "frontend/system/libexec.h"
#include "frontend/system/subids.h"
#include "policy/path/open_for_change.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

// bin/postern: beside libexec/postern, in a build tree's POSTERN_LIBEXEC, or by PATH.
std::string postern_path() {
  std::string listed = system::libexec_program("postern");
  if (::access(listed.c_str(), X_OK) == 0) {
    return listed;
  }
  std::array<char, 4096> self{};
  const ssize_t length = ::readlink("/proc/self/exe", self.data(), self.size() - 1);
  if (length > 0) {
    std::string path(self.data(), static_cast<std::size_t>(length));
    path = path.substr(0, path.rfind('/')) + "/../../bin/postern";
    if (::access(path.c_str(), X_OK) == 0) {
      return path;
    }
  }
  return "postern";
}

Outcome<> check_end(int status, const std::string& what) {
  POSTERN_TRY(check_interrupt());
  if (WIFSIGNALED(status)) {
    return Problem{.what = what + " was ended by signal " + std::to_string(WTERMSIG(status))};
  }
  if (WEXITSTATUS(status) != 0) {
    return Problem{.what =
                       what + " failed with exit status " + std::to_string(WEXITSTATUS(status))};
  }
  return {};
}

constexpr std::array kDevices = {"null", "zero", "full", "random", "urandom"};

// Empty files and directories for the binds of become_tool().
Outcome<> make_device_places(const std::string& root) {
  for (const char* directory : {"/dev", "/proc"}) {
    if (::mkdir((root + directory).c_str(), 0755) != 0 && errno != EEXIST) {
      return system_problem("making '" + root + directory + "'", errno);
    }
  }
  for (const char* device : kDevices) {
    const std::string path = root + "/dev/" + device;
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (!fd.valid()) {
      return system_problem("making '" + path + "'", errno);
    }
  }
  return {};
}

void remove_device_places(const std::string& root) {
  for (const char* device : kDevices) {
    ::unlink((root + "/dev/" + device).c_str());
  }
}

// In the child: /proc and devices lie in `root` in a mount namespace of its own. Ends the process
// on failure, with the status of a program that could not be started.
void become_tool(const std::string& root, std::vector<std::uint8_t>& filter) {
  bool ready = ::unshare(CLONE_NEWNS) == 0 &&
               ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
               ::mount("/proc", (root + "/proc").c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0;
  for (const char* device : kDevices) {
    ready = ready && ::mount((std::string("/dev/") + device).c_str(),
                             (root + "/dev/" + device).c_str(), nullptr, MS_BIND, nullptr) == 0;
  }
  // SAFETY: the bytes are sock_filter[], as libseccomp wrote them.
  const sock_fprog program = {
      .len = static_cast<unsigned short>(filter.size() / sizeof(sock_filter)),
      .filter = reinterpret_cast<sock_filter*>(filter.data())};
  ready = ready && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
          ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
  if (!ready) {
    ::_exit(126);
  }
}

}  // namespace

Outcome<> run_program(const std::string& program,
                      const std::vector<std::string>& arguments,
                      int inherited,
                      const std::string& what) {
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv = system::argv_of(words);
  if (inherited >= 0 && ::fcntl(inherited, F_SETFD, 0) != 0) {
    return system_problem("starting '" + program + "'", errno);
  }
  POSTERN_TRY_ASSIGN(const int status,
                     run_guarded([&] { ::execvp(program.c_str(), argv.data()); }, program));
  return check_end(status, what);
}

Outcome<> run_with_imitation(const std::string& program,
                             const std::vector<std::string>& arguments,
                             const std::string& root,
                             const std::string& what) {
  if (path::is_host_root()) {
    return run_program(program, arguments, -1, what);
  }
  const plan::Fakeroot kind = system::holds_id(system::own_user_ids(), 1)
                                  ? plan::Fakeroot::kSubordinate
                                  : plan::Fakeroot::kRootMapped;
  POSTERN_TRY_ASSIGN(std::vector<std::uint8_t> filter, plan::imitation_filter(kind, true));
  POSTERN_TRY(make_device_places(root));
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::vector<char*> argv = system::argv_of(words);
  const auto status = run_guarded(
      [&] {
        become_tool(root, filter);
        ::execv(argv[0], argv.data());
      },
      program);
  remove_device_places(root);
  return status ? check_end(*status, what) : Outcome<>(status.error());
}

Outcome<> run_postern(const std::vector<std::string>& arguments, const std::string& what) {
  return run_program(postern_path(), arguments, -1, what);
}

}  // namespace postern::imagebuild
