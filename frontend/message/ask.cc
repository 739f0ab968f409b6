#include "frontend/message/ask.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <optional>

#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::message {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};

volatile std::sig_atomic_t g_caught = 0;

void note(int number) {
  g_caught = number;
}

// While it lives, signals are held back but in wait(), which notes one that arrives there.
class Signals {
 public:
  Signals() {
    sigset_t held;
    ::sigemptyset(&held);
    struct sigaction action{};
    action.sa_handler = note;  // without SA_RESTART: ppoll(2) ends with EINTR in any case
    ::sigemptyset(&action.sa_mask);
    g_caught = 0;
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
      ::sigaction(kSignals[i], nullptr, &before_[i]);
      if (before_[i].sa_handler != SIG_IGN) {  // nohup(1)
        ::sigaddset(&held, kSignals[i]);
      }
    }
    ::pthread_sigmask(SIG_BLOCK, &held, &mask_);
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
      if (before_[i].sa_handler != SIG_IGN) {
        ::sigaction(kSignals[i], &action, nullptr);
      }
    }
  }

  ~Signals() {
    for (std::size_t i = 0; i < kSignals.size(); ++i) {
      ::sigaction(kSignals[i], &before_[i], nullptr);
    }
    ::pthread_sigmask(SIG_SETMASK, &mask_, nullptr);
  }

  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Until `fd` can be read: 0. Else the signal that came first.
  [[nodiscard]] int wait(int fd) const {
    pollfd readable{.fd = fd, .events = POLLIN, .revents = 0};
    while (g_caught == 0 && ::ppoll(&readable, 1, nullptr, &mask_) < 0 && errno == EINTR) {
    }
    return g_caught;
  }

 private:
  std::array<struct sigaction, kSignals.size()> before_{};
  sigset_t mask_{};
};

// Echo off. TCSANOW, not TCSAFLUSH: what was typed ahead stays.
class Silence {
 public:
  explicit Silence(int terminal) : terminal_(terminal) {
    active_ = ::tcgetattr(terminal_, &settings_) == 0;
    if (active_) {
      termios quiet = settings_;
      quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
      quiet.c_lflag |= ECHONL;
      ::tcsetattr(terminal_, TCSANOW, &quiet);
    }
  }

  ~Silence() {
    if (active_) {
      ::tcsetattr(terminal_, TCSANOW, &settings_);
    }
  }

  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;

 private:
  int terminal_;
  bool active_ = false;
  termios settings_{};
};

Problem no_answer() {
  return Problem{.what = "no answer was given",
                 .cure = "run it on a terminal, or pipe the answer to standard input"};
}

struct Read {
  int signal = 0;  // that came before the line was complete
  std::size_t size = 0;
};

// In the terminal's own line mode, so that there is nothing to take back if it is given up. ORDER:
// echo goes off before the question, which a program at the other end may answer at once.
Outcome<Read> ask_once(
    int fd, int to, const std::string& prompt, bool secret, std::span<std::byte> answer) {
  const Signals signals;
  std::optional<Silence> silence;
  if (secret) {
    silence.emplace(fd);
  }
  if (::write(to, prompt.data(), prompt.size()) < 0) {
    return system_problem("asking a question", errno);
  }
  std::size_t size = 0;
  while (true) {
    if (const int signal = signals.wait(fd); signal != 0) {
      return Read{.signal = signal};
    }
    std::byte byte{};
    const ssize_t got = ::read(fd, &byte, 1);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
      continue;
    }
    if (got < 0) {
      return system_problem("reading the answer", errno);
    }
    if (got == 0 && size == 0) {
      return no_answer();
    }
    if (got == 0 || byte == std::byte{'\n'}) {
      return Read{.size = size};
    }
    if (size == answer.size()) {
      return Problem{.what =
                         "the answer is longer than " + std::to_string(answer.size()) + " bytes"};
    }
    answer[size++] = byte;
  }
}

}  // namespace

Outcome<std::size_t> ask_line(const std::string& prompt, bool secret, std::span<std::byte> answer) {
  const UniqueFd terminal(
      ::isatty(STDIN_FILENO) == 1 ? ::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY) : -1);
  const int from = terminal.valid() ? terminal.get() : STDIN_FILENO;
  const int to = terminal.valid() ? terminal.get() : STDERR_FILENO;
  while (true) {
    const Outcome<Read> read = ask_once(from, to, prompt, secret, answer);
    // A terminal shows the end of the line that is typed. What comes from a pipe leaves the
    // question without one.
    if (!terminal.valid() && ::write(to, "\n", 1) < 0) {
      return system_problem("asking a question", errno);
    }
    if (!read || read->signal == 0) {
      return read ? Outcome<std::size_t>(read->size) : read.error();
    }
    ::raise(read->signal);  // ends or stops this program
    if (read->signal != SIGTSTP) {
      return Problem{.what = "interrupted"};  // by a signal with a handler of its own
    }
  }
}

}  // namespace postern::message
