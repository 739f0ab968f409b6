#include "frontend/init/reaper.h"

#include <cerrno>

#include <sys/prctl.h>
#include <sys/wait.h>

#include <signal.h>
#include <unistd.h>

namespace postern::init {
namespace {

int status_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// What the kernel sends to a terminal's whole foreground group reaches the payload by itself.
bool is_terminal_signal(int number) {
  return number == SIGINT || number == SIGQUIT || number == SIGTSTP || number == SIGTTIN ||
         number == SIGTTOU || number == SIGWINCH;
}

[[noreturn]] void reap(pid_t payload, const sigset_t& all) {
  // The caller's descriptors are the payload's: who waits for the end of a pipe must not wait for
  // us.
  ::close_range(STDERR_FILENO + 1, ~0U, 0);
  for (;;) {
    int status = 0;
    for (pid_t child = 0; (child = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (child == payload) {
        ::_exit(status_of(status));
      }
    }
    siginfo_t info = {};
    const int signal = ::sigwaitinfo(&all, &info);
    if (signal > 0 && signal != SIGCHLD &&
        !(info.si_code == SI_KERNEL && is_terminal_signal(signal))) {
      ::kill(payload, signal);
    }
  }
}

}  // namespace

int become_reaper() {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  // ORDER: blocked before the fork: a signal that arrives in between waits to be forwarded.
  ::sigprocmask(SIG_BLOCK, &all, &before);
  // ORDER: before the fork as well: an ignored SIGCHLD would reap the payload's status away, and
  // setting one whose default is to be ignored throws away what is pending (sigaction(2)).
  ::signal(SIGCHLD, SIG_DFL);
  const pid_t payload = ::fork();
  if (payload != 0) {
    if (payload < 0) {
      const int err = errno;
      ::sigprocmask(SIG_SETMASK, &before, nullptr);
      return err;
    }
    ::prctl(PR_SET_NAME, "postern-init");
    reap(payload, all);
  }
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return 0;
}

}  // namespace postern::init
