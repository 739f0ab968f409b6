#include "frontend/start/wait.h"

#include <array>
#include <cerrno>
#include <cstdint>

#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::start {
namespace {

// What the kernel sends to a terminal's whole foreground group, so that the payload has it as well.
// Not SIGHUP: on a hangup only the session's leader, perhaps us, is told. Not SIGALRM: a timer that
// was set before us is meant for the payload.
bool is_terminal_signal(int number) {
  return number == SIGINT || number == SIGQUIT || number == SIGTSTP || number == SIGTTIN ||
         number == SIGTTOU || number == SIGWINCH;
}

std::int64_t now() {
  timespec time = {};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

// By which a person or a batch system ends a program.
sigset_t ending_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    ::sigaddset(&set, number);
  }
  return set;
}

class Waiter {
 public:
  Waiter(const Payload& payload, const BlockedSignals& signals, Attendant* attendant)
      : payload_(payload),
        signals_(signals),
        attendant_(attendant),
        signal_fd_(::signalfd(-1, &signals.set(), SFD_CLOEXEC)) {}

  Ended run() {
    if (attendant_ != nullptr) {
      attendant_->started(payload_.pid);
    }
    while (!reap()) {
      wait_for_event();
    }
    return ended_;
  }

 private:
  void wait_for_event() {
    const int attended = attendant_ != nullptr ? attendant_->events() : -1;
    std::array<pollfd, 3> events = {pollfd{signal_fd_.get(), POLLIN, 0},
                                    pollfd{watched_server(), POLLIN, 0},
                                    pollfd{attended, POLLIN, 0}};
    if (!signal_fd_.valid()) {
      // No descriptor left for a signalfd: wait for signals without one.
      siginfo_t info = {};
      if (const int number = ::sigwaitinfo(&signals_.set(), &info); number > 0) {
        handle(number, info.si_code);
      }
      return;
    }
    if (::poll(events.data(), events.size(), -1) <= 0) {
      return;
    }
    if (events[1].revents != 0) {
      ended_.server_died = true;  // else it would wait for this start to leave (leave_server)
    }
    if (events[0].revents != 0) {
      signalfd_siginfo info = {};
      if (::read(signal_fd_.get(), &info, sizeof(info)) == sizeof(info)) {
        handle(static_cast<int>(info.ssi_signo), info.ssi_code);
      }
    }
    if (events[2].revents != 0) {
      attendant_->serve();
    }
  }

  [[nodiscard]] int watched_server() const {
    return ended_.server_died ? -1 : payload_.server_pidfd;
  }

  void handle(int number, int code) {
    if (number == SIGCHLD) {
      return;  // reap() looks
    }
    const bool from_terminal = code == SI_KERNEL && is_terminal_signal(number);
    if (number == SIGTSTP && from_terminal) {
      // The payload stops by itself and reap() sees it; process 1 of a pid namespace cannot.
      if (payload_.has_reaper) {
        stop_ourselves();
      }
      return;
    }
    if (!from_terminal) {
      ::kill(payload_.pid, number);
    }
  }

  void stop_ourselves() {
    ::kill(::getpid(), SIGSTOP);
    // … and here after SIGCONT.
    ::kill(payload_.pid, SIGCONT);
  }

  // True once the payload has ended.
  bool reap() {
    for (;;) {
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, WNOHANG | WUNTRACED);
      if (pid <= 0) {
        return pid < 0 && errno == ECHILD;
      }
      if (pid == payload_.pid && WIFSTOPPED(status)) {
        stop_ourselves();
      } else if (pid == payload_.pid) {
        ended_.status = status;
        return true;
      } else if (pid == payload_.server && !WIFSTOPPED(status)) {
        // Exit status 0 says that the mount was gone.
        ended_.server_died = ended_.server_died || status != 0;
      }
    }
  }

  const Payload& payload_;
  const BlockedSignals& signals_;
  Attendant* attendant_;
  UniqueFd signal_fd_;
  Ended ended_;
};

}  // namespace

BlockedSignals::BlockedSignals() noexcept {
  ::sigfillset(&set_);
  // Faults of our own must not be blocked: the kernel would kill us without a word.
  for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS}) {
    ::sigdelset(&set_, fault);
  }
  ::sigprocmask(SIG_BLOCK, &set_, &before_);
  let_end();
  ::signal(SIGCHLD, SIG_DFL);  // ignored, it would throw the payload's status away (wait(2))
}

void BlockedSignals::let_end() noexcept {
  const sigset_t ends = ending_signals();
  ::sigprocmask(SIG_UNBLOCK, &ends, nullptr);
}

void BlockedSignals::hold_all() noexcept {
  ::sigprocmask(SIG_BLOCK, &set_, nullptr);
  const sigset_t ends = ending_signals();
  ends_ = UniqueFd(::signalfd(-1, &ends, SFD_CLOEXEC));
}

int BlockedSignals::poll_or_end(pollfd& event, int milliseconds) const noexcept {
  const std::int64_t deadline = now() + std::int64_t{milliseconds} * 1'000'000;
  for (std::int64_t left = milliseconds; left >= 0; left = (deadline - now()) / 1'000'000) {
    std::array<pollfd, 2> both = {event, pollfd{ends_.get(), POLLIN, 0}};
    const int ready = ::poll(both.data(), both.size(), static_cast<int>(left));
    event.revents = both[0].revents;
    if (ready <= 0 || event.revents != 0) {
      return ready;
    }
    // It is pending. Unblocked, it ends this process, unless it is ignored (nohup): then it is
    // gone.
    const sigset_t ends = ending_signals();
    ::sigprocmask(SIG_UNBLOCK, &ends, nullptr);
    ::sigprocmask(SIG_BLOCK, &ends, nullptr);
  }
  return 0;
}

BlockedSignals::~BlockedSignals() {
  ::sigprocmask(SIG_SETMASK, &before_, nullptr);
}

Ended wait_for_payload(const Payload& payload,
                       const BlockedSignals& signals,
                       Attendant* attendant) {
  return Waiter(payload, signals, attendant).run();
}

int finish_like(int status) {
  if (WIFEXITED(status)) {
    return WEXITSTATUS(status);
  }
  const int number = WTERMSIG(status);
  ::prctl(PR_SET_DUMPABLE, 0);  // the payload's core is the one of interest
  ::signal(number, SIG_DFL);
  sigset_t only;
  ::sigemptyset(&only);
  ::sigaddset(&only, number);
  ::raise(number);
  ::sigprocmask(SIG_UNBLOCK, &only, nullptr);
  return 128 + number;
}

}  // namespace postern::start
