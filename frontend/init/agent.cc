#include "frontend/init/agent.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/init/note.h"
#include "frontend/init/session.h"
#include "frontend/message/message.h"
#include "protocol/base/unique_fd.h"
#include "protocol/exit_codes.h"

namespace postern::init {
namespace {

std::string words_for(int status) {
  if (WIFEXITED(status)) {
    return "ended with exit status " + std::to_string(WEXITSTATUS(status));
  }
  const char* const name = sigdescr_np(WTERMSIG(status));
  return std::string("was ended by a signal: ") + (name != nullptr ? name : "unknown");
}

int exit_status_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// By which a person or a program asks another program to end.
bool asks_to_end(int number) {
  return number == SIGHUP || number == SIGINT || number == SIGQUIT || number == SIGTERM ||
         number == SIGPWR;
}

class Agent {
 public:
  Agent(const LaunchRecord& instance, UniqueFd orders, UniqueFd begins, pid_t script)
      : instance_(instance),
        orders_(std::move(orders)),
        begins_(std::move(begins)),
        script_(script) {
    sigset_t all;
    ::sigfillset(&all);
    signals_ = UniqueFd(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  // Returns in a process that joins.
  LaunchRecord run() {
    for (;;) {
      std::array<pollfd, 3> events = {pollfd{begins_.get(), POLLIN, 0},
                                      pollfd{signals_.get(), POLLIN, 0},
                                      pollfd{orders_.get(), POLLIN, 0}};
      if (::poll(events.data(), events.size(), -1) <= 0) {
        continue;
      }
      if (events[0].revents != 0) {
        script_runs();
      }
      if (events[1].revents != 0) {
        take_signals();
      }
      if (events[2].revents != 0) {
        UniqueFd joins = take_order();
        if (joins.valid() && fork_session(joins)) {
          forget_descriptors();
          return serve_session(std::move(joins), instance_);
        }
      }
    }
  }

 private:
  // The script's process has executed a program, or ended: nobody holds the pipe.
  void script_runs() {
    if (begins_.valid()) {
      begins_.reset();
      tell({NoteKind::kRunning, 0});
    }
  }

  void tell(Note note) { (void)send_note(orders_.get(), note, {}, MSG_DONTWAIT); }

  void take_signals() {
    signalfd_siginfo info = {};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) {
        forward(static_cast<int>(info.ssi_signo));
      }
    }
    reap();
  }

  // As a signal for a program reaches what the program started, in its process group.
  bool signal_script(int number) const {
    return ::kill(-script_, number) == 0 || (script_runs_ && ::kill(script_, number) == 0);
  }

  void forward(int number) {
    if (!signal_script(number) && asks_to_end(number)) {
      ::_exit(128 + number);
    }
  }

  void reap() {
    int status = 0;
    for (pid_t child = 0; (child = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      std::erase(sessions_, child);
      if (child == script_ && script_runs_) {
        script_ended(status);
      }
    }
    // ECHILD: there is nothing left to wait for.
    if (stop_ != 0 && !script_runs_) {
      end_the_rest(::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD);
    }
  }

  void script_ended(int status) {
    script_runs();
    script_runs_ = false;
    tell({NoteKind::kEnded, status});
    if (status != 0 && stop_ == 0) {
      message::error("the script of instance " + instance_.instance + " " + words_for(status) +
                     ": the instance ends");
      ::_exit(exit_status_of(status));
    }
  }

  void stop(int number) {
    stop_ = number;
    if (!signal_script(number)) {
      told_ = true;
      ::kill(-1, number);
    }
    reap();
  }

  // Once the script has ended: those that joined are not waited for, and what the script left
  // running in other process groups is asked to end as well.
  void end_the_rest(bool nothing_left) {
    if (nothing_left) {
      ::_exit(0);
    }
    for (const pid_t session : std::exchange(sessions_, {})) {
      ::kill(session, SIGKILL);
    }
    if (!std::exchange(told_, true)) {
      ::kill(-1, stop_);
    }
  }

  UniqueFd take_order() {
    Note note;
    UniqueFd passed;
    const int err = receive_note(orders_.get(), note, passed);
    if (err == ENODATA) {
      ::_exit(kExitFatal);  // the monitor is gone, and the instance with it
    }
    if (err == 0 && note.kind == NoteKind::kStop && note.value > 0 && note.value < NSIG) {
      stop(note.value);
    }
    return err == 0 && note.kind == NoteKind::kJoin ? std::move(passed) : UniqueFd();
  }

  // True in the child.
  bool fork_session(UniqueFd& joins) {
    const pid_t session = ::fork();
    if (session < 0) {
      (void)send_note(joins.get(), {NoteKind::kFailed, errno}, {}, MSG_DONTWAIT);
    } else if (session > 0) {
      sessions_.push_back(session);
    }
    return session == 0;
  }

  // In a child: they are closed at once, all together.
  void forget_descriptors() noexcept {
    for (UniqueFd* const one : {&orders_, &begins_, &signals_}) {
      (void)one->release();
    }
  }

  const LaunchRecord& instance_;
  UniqueFd orders_;
  UniqueFd begins_;
  UniqueFd signals_;
  pid_t script_;
  bool script_runs_ = true;
  std::vector<pid_t> sessions_;
  int stop_ = 0;       // the signal by which the instance was asked to end
  bool told_ = false;  // … and everything in it has got it
};

}  // namespace

LaunchRecord joined_record(LaunchRecord wish, const LaunchRecord& instance) {
  std::vector<std::string> fixed = instance.fixed;
  // The later one counts.
  std::move(wish.fixed.begin(), wish.fixed.end(), std::back_inserter(fixed));
  wish.fixed = std::move(fixed);
  wish.home = instance.home;
  wish.filters = instance.filters;
  wish.libs32 = instance.libs32;
  wish.reaper = false;
  wish.agent = -1;
  wish.links.clear();
  wish.optional.clear();
  return wish;
}

Outcome<LaunchRecord> become_agent(const LaunchRecord& instance) {
  UniqueFd orders(instance.agent);
  std::array<int, 2> pipe = {-1, -1};
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  // ORDER: before the fork, as in become_reaper().
  ::sigprocmask(SIG_BLOCK, &all, &before);
  ::signal(SIGCHLD, SIG_DFL);
  // The payload is of the same user: it does not look into this process, nor stop it.
  ::prctl(PR_SET_DUMPABLE, 0);
  if (::fcntl(orders.get(), F_SETFD, FD_CLOEXEC) != 0 || ::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    return system_problem("preparing the instance", errno);
  }
  UniqueFd begins(pipe[0]);
  UniqueFd runs(pipe[1]);
  const pid_t script = ::fork();
  if (script < 0) {
    return system_problem("starting the instance's script", errno, "raise `ulimit -u`");
  }
  if (script == 0) {
    orders.reset();
    begins.reset();
    (void)runs.release();  // closed by the exec, or at the end
    ::setsid();
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    LaunchRecord record = instance;
    record.agent = -1;
    return record;
  }
  runs.reset();
  ::prctl(PR_SET_NAME, "postern-init");
  return Agent(instance, std::move(orders), std::move(begins), script).run();
}

}  // namespace postern::init
