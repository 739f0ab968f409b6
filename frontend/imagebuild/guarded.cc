#include "frontend/imagebuild/guarded.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include <sys/prctl.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

constexpr int kBuildDied = SIGUSR1;

// What the build reads: how the program ended, or why it did not start.
struct Report {
  int exec_error = 0;
  int status = 0;  // of wait(2)
};

// Smaller than PIPE_BUF: whole or not at all (pipe(7)).
void tell(int fd, const Report& report) {
  if (::write(fd, &report, sizeof report) < 0) {
    ::_exit(126);  // the build is gone
  }
}

// Kills the children that the kernel lists (proc_pid_task(5)); false if it could kill none.
bool kill_children() {
  const UniqueFd list(::open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> text{};
  const ssize_t got = list.valid() ? ::read(list.get(), text.data(), text.size() - 1) : 0;
  bool any = false;
  char* end = nullptr;
  for (const char* at = text.data(); got > 0; at = end) {
    const long pid = std::strtol(at, &end, 10);
    if (end == at || *end != ' ') {  // the last one may be cut: it is read the next time
      break;
    }
    any = ::kill(static_cast<pid_t>(pid), SIGKILL) == 0 || any;
  }
  return any;
}

// Children of those that were killed become the guard's, which is their subreaper.
[[noreturn]] void end_descendants() {
  while (kill_children()) {
    ::waitpid(-1, nullptr, 0);
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
  ::_exit(126);
}

// Waits for the program's end or the build's.
[[noreturn]] void watch(pid_t program, const sigset_t& awaited, int report_fd) {
  while (true) {
    if (::sigwaitinfo(&awaited, nullptr) == kBuildDied) {
      end_descendants();
    }
    int status = 0;
    for (pid_t pid = ::waitpid(-1, &status, WNOHANG); pid > 0;
         pid = ::waitpid(-1, &status, WNOHANG)) {
      if (pid == program) {
        tell(report_fd, {.status = status});
        ::_exit(0);
      }
    }
  }
}

[[noreturn]] void guard(const std::function<void()>& become, pid_t build, int report_fd) {
  sigset_t awaited;
  sigset_t former;
  ::sigemptyset(&awaited);
  ::sigaddset(&awaited, SIGCHLD);
  ::sigaddset(&awaited, kBuildDied);
  ::sigprocmask(SIG_BLOCK, &awaited, &former);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::prctl(PR_SET_PDEATHSIG, kBuildDied);
  if (::getppid() != build) {
    ::_exit(126);
  }
  const pid_t program = ::fork();
  if (program == 0) {
    ::sigprocmask(SIG_SETMASK, &former, nullptr);
    become();
    tell(report_fd, {.exec_error = errno});
    ::_exit(127);
  }
  if (program < 0) {
    tell(report_fd, {.exec_error = errno});
    ::_exit(127);
  }
  // The terminal's signals are the program's to answer.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
    ::signal(signal, SIG_IGN);
  }
  watch(program, awaited, report_fd);
}

}  // namespace

Outcome<int> run_guarded(const std::function<void()>& become, const std::string& name) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return system_problem("starting '" + name + "'", errno);
  }
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  const pid_t build = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    guard(become, build, writing.get());
  }
  if (child < 0) {
    return system_problem("starting '" + name + "'", errno);
  }
  writing.reset();
  Report report{.status = SIGKILL};  // if the guard is killed, so that it cannot tell
  while (::read(reading.get(), &report, sizeof report) < 0 && errno == EINTR) {
  }
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (report.exec_error != 0) {
    return system_problem("starting '" + name + "'", report.exec_error,
                          "is postern installed whole?");
  }
  return report.status;
}

}  // namespace postern::imagebuild
