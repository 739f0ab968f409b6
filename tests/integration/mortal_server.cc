// In place of postern-squashfs: runs it (this path with ".real" behind it), and kills it at the
// call whose number stands in this path with ".die" behind it, or lets it run where there is no
// such file. With a negative number it stops it there, and is called "held" from then on. Holds
// none of its descriptors.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <signal.h>
#include <unistd.h>

int main(int /*argc*/, char** argv) {
  char path[4096] = {};
  if (::readlink("/proc/self/exe", path, sizeof path - 1) < 0) {
    return 1;
  }
  const std::string own = path;
  long number = 0;
  std::ifstream(own + ".die") >> number;
  if (number == 0) {
    ::execv((own + ".real").c_str(), argv);
    return 1;
  }
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::execv((own + ".real").c_str(), argv);
    ::_exit(1);
  }
  ::close_range(3, ~0U, 0);
  int status = 0;
  ::waitpid(child, &status, 0);
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr,
           PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD);
  ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
  for (long stops = 0;;) {
    const pid_t stopped = ::waitpid(-1, &status, __WALL);
    if (stopped < 0 || (stopped == child && !WIFSTOPPED(status))) {
      break;
    }
    if (!WIFSTOPPED(status)) {
      continue;
    }
    const int reason = WSTOPSIG(status);
    if (reason == (SIGTRAP | 0x80) && ++stops == 2 * std::labs(number)) {
      if (number > 0) {
        ::kill(child, SIGKILL);
      } else {
        ::prctl(PR_SET_NAME, "held");
      }
      continue;
    }
    const bool ours = reason == SIGTRAP || reason == SIGSTOP || reason == (SIGTRAP | 0x80);
    ::ptrace(PTRACE_SYSCALL, stopped, nullptr, ours ? 0L : long{reason});
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
