#include "frontend/imagebuild/container.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <string_view>

#include <sys/wait.h>

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <spawn.h>
#include <unistd.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/system/argv.h"
#include "frontend/system/libexec.h"

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

Outcome<int> wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) {
      return system_problem("waiting for a program", errno);
    }
  }
  return status;
}

// "name:first:count" lines of subuid(5) for this user.
void add_ranges(const char* path,
                const std::string& name,
                const std::string& number,
                std::vector<OwnerRange>& out) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const std::size_t one = line.find(':');
    const std::size_t two = one == std::string::npos ? one : line.find(':', one + 1);
    if (two == std::string::npos ||
        (line.substr(0, one) != name && line.substr(0, one) != number)) {
      continue;
    }
    OwnerRange range;
    const char* const text = line.c_str();
    std::from_chars(text + one + 1, text + two, range.first);
    std::from_chars(text + two + 1, text + line.size(), range.count);
    range.inside = 1;
    out.push_back(range);
    return;  // newuidmap(1) is given the first range
  }
}

}  // namespace

OwnerMap fakeroot_owners() {
  OwnerMap map = caller_is_root();
  if (::geteuid() == 0) {
    return map;
  }
  const passwd* user = ::getpwuid(::getuid());  // NOLINT(concurrency-mt-unsafe): one thread
  const std::string name = user != nullptr ? user->pw_name : "";
  const std::string number = std::to_string(::getuid());
  add_ranges("/etc/subuid", name, number, map.users);
  add_ranges("/etc/subgid", name, number, map.groups);
  return map;
}

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
  pid_t child = -1;
  const int failed =
      ::posix_spawnp(&child, program.c_str(), nullptr, nullptr, argv.data(), environ);
  if (failed != 0) {
    return system_problem("starting '" + program + "'", failed, "is postern installed whole?");
  }
  POSTERN_TRY_ASSIGN(const int status, wait_for(child));
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

Outcome<> run_postern(const std::vector<std::string>& arguments, const std::string& what) {
  return run_program(postern_path(), arguments, -1, what);
}

}  // namespace postern::imagebuild
