#include "frontend/instance/join.h"

#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include <sys/signalfd.h>
#include <sys/socket.h>

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/init/handover.h"
#include "frontend/init/note.h"
#include "frontend/instance/name.h"
#include "frontend/instance/registry.h"
#include "frontend/instance/terminal.h"
#include "frontend/message/message.h"
#include "frontend/start/wait.h"
#include "frontend/system/descriptor.h"

namespace postern::instance {
namespace {

using init::Note;
using init::NoteKind;

// An instance that is just starting takes its time; one that is stopped has no answer.
constexpr int kAnswerMilliseconds = 30'000;
constexpr int kLost = 128 + SIGKILL;

bool is_terminal_signal(int number) {
  return number == SIGINT || number == SIGQUIT || number == SIGTSTP;
}

Problem failure(const std::string& name, int err) {
  switch (err) {
    case EMFILE:
      return system_problem("handing open descriptors to instance " + name, err,
                            "close those that the program does not need, or raise `ulimit -n` "
                            "before the instance is started");
    case EBADMSG:
      return Problem{.what = "instance " + name + " was started by another version of postern",
                     .cure = "end it, and start it again"};
    case EAGAIN:
      return system_problem("starting a process in instance " + name, err,
                            "raise `ulimit -u` before the instance is started");
    default:
      return system_problem("starting a process in instance " + name, err);
  }
}

class Joined {
 public:
  Joined(const std::string& name, UniqueFd socket, std::optional<Terminal> terminal)
      : name_(name), socket_(std::move(socket)), terminal_(std::move(terminal)) {}

  Outcome<> begin(const init::LaunchRecord& wish, const std::vector<int>& descriptors) {
    POSTERN_TRY_ASSIGN(const UniqueFd record,
                       system::make_content_fd("postern record", init::encode(wish)));
    if (const int err = init::send_note(socket_.get(), {NoteKind::kJoin, 0}); err != 0) {
      return failure(name_, err);
    }
    const bool lent = !terminal_ || terminal_->lend();
    const Result<> sent = init::hand_over(socket_.get(), record.get(), descriptors);
    if (terminal_) {
      terminal_->take_back();
    }
    // EPIPE: there is an answer already.
    if (!lent || (!sent && sent.error().err != EPIPE)) {
      return failure(name_, lent ? sent.error().err : EMFILE);
    }
    return Ok{};
  }

  // Until its process is there. Signals that end programs end this one meanwhile.
  Outcome<> wait_for_start(const start::BlockedSignals& signals) {
    pollfd answer = {socket_.get(), POLLIN, 0};
    const int ready = signals.poll_or_end(answer, kAnswerMilliseconds);
    Note note;
    UniqueFd passed;
    if (ready <= 0) {
      return Problem{.what = "instance " + name_ + " does not answer",
                     .cure = "end it: postern instance stop --force " + name_};
    }
    if (init::receive_note(socket_.get(), note, passed) != 0) {
      return Problem{.what = "instance " + name_ + " ended"};
    }
    if (note.kind == NoteKind::kStarted) {
      return Ok{};
    }
    return failure(name_, note.kind == NoteKind::kFailed ? note.value : EBADMSG);
  }

  // The status of its end, as of wait(2); nullopt if the instance has ended under it.
  Outcome<std::optional<int>> wait(const start::BlockedSignals& signals) {
    const UniqueFd signal_fd(::signalfd(-1, &signals.set(), SFD_CLOEXEC | SFD_NONBLOCK));
    if (terminal_) {
      terminal_->begin();
    }
    for (;;) {
      std::array<pollfd, 4> events = {
          pollfd{socket_.get(), POLLIN, 0}, pollfd{signal_fd.get(), POLLIN, 0},
          pollfd{terminal_ ? terminal_->typed() : -1, POLLIN, 0},
          pollfd{terminal_ ? terminal_->written() : -1, terminal_events(), 0}};
      if (::poll(events.data(), events.size(), -1) <= 0) {
        continue;
      }
      if (events[1].revents != 0) {
        take_signal(signal_fd.get());
      }
      if (events[2].revents != 0) {
        terminal_->pass_typed();
      }
      if (events[3].revents != 0) {
        serve_terminal(events[3].revents);
      }
      if (events[0].revents != 0) {
        Note note;
        UniqueFd passed;
        const int err = init::receive_note(socket_.get(), note, passed);
        if (err == EAGAIN || err == EINTR) {
          continue;
        }
        finish_terminal();
        if (err == 0 && note.kind == NoteKind::kFailed) {
          return failure(name_, note.value);
        }
        return err == 0 && note.kind == NoteKind::kEnded ? std::optional(note.value) : std::nullopt;
      }
    }
  }

 private:
  [[nodiscard]] short terminal_events() const {
    const int writing = terminal_ && terminal_->has_pending() ? POLLOUT : 0;
    return static_cast<short>(POLLIN | writing);
  }

  void serve_terminal(short events) {
    if ((events & POLLOUT) != 0) {
      terminal_->flush_typed();
    }
    if ((events & POLLIN) != 0) {
      terminal_->pass_written();
    } else if ((events & (POLLHUP | POLLERR)) != 0) {
      // Nobody has it open: only the end of the process is left to come, which is told elsewhere.
      terminal_.reset();
    }
  }

  // What was written before the end.
  void finish_terminal() {
    while (terminal_ && terminal_->pass_written()) {
    }
    terminal_.reset();
  }

  void take_signal(int fd) {
    signalfd_siginfo info = {};
    if (::read(fd, &info, sizeof info) != sizeof info) {
      return;
    }
    const int number = static_cast<int>(info.ssi_signo);
    if (number == SIGCHLD) {
      return;
    }
    if (number == SIGWINCH && terminal_) {
      terminal_->resize();
      return;
    }
    const bool from_terminal = info.ssi_code == SI_KERNEL && is_terminal_signal(number);
    if (number == SIGTSTP && from_terminal) {
      // Its group is an orphaned one, which SIGTSTP does not stop (setpgid(2)).
      tell(NoteKind::kGroupSignal, SIGSTOP);
      ::kill(::getpid(), SIGSTOP);
      // … and here after SIGCONT.
      tell(NoteKind::kGroupSignal, SIGCONT);
      return;
    }
    // The terminal is not the process's: its keys reach this process alone.
    tell(from_terminal ? NoteKind::kGroupSignal : NoteKind::kSignal, number);
  }

  void tell(NoteKind kind, int number) { (void)init::send_note(socket_.get(), {kind, number}); }

  const std::string& name_;
  UniqueFd socket_;
  std::optional<Terminal> terminal_;
};

}  // namespace

Outcome<int> join(const std::string& name, init::LaunchRecord wish, std::vector<int> inherited) {
  POSTERN_TRY(check_name(name));
  std::optional<Contact> contact = find(name);
  if (!contact) {
    return Problem{.what = "no instance found with name " + name,
                   .cure = "postern instance list shows those that run on this host"};
  }
  start::BlockedSignals signals;
  std::optional<Terminal> terminal = Terminal::open();
  wish.terminal = terminal ? STDIN_FILENO : -1;
  inherited.insert(inherited.begin(), {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO});
  Joined joined(name, std::move(contact->socket), std::move(terminal));
  // ORDER: before the process can be seen to run: signals are its own from then on.
  signals.hold_all();
  POSTERN_TRY(joined.begin(wish, inherited));
  for (std::size_t i = STDERR_FILENO + 1; i < inherited.size(); ++i) {
    ::close(inherited[i]);  // the process's alone: it may wait for the end of a pipe
  }
  POSTERN_TRY(joined.wait_for_start(signals));
  POSTERN_TRY_ASSIGN(const std::optional<int> status, joined.wait(signals));
  if (!status) {
    message::error("instance " + name + " ended, and the process in it");
    return kLost;
  }
  return start::finish_like(*status);
}

}  // namespace postern::instance
