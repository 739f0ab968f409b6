#include "frontend/keys/prompt.h"

#include <cerrno>
#include <optional>

#include <fcntl.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::keys {
namespace {

// Echo off while this lives. Signals that would end the program in between are held back: a shell
// without echo is worse than an interruption that comes when the line is complete.
class Silence {
 public:
  explicit Silence(int terminal) : terminal_(terminal) {
    sigset_t held;
    ::sigemptyset(&held);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP}) {
      ::sigaddset(&held, number);
    }
    ::pthread_sigmask(SIG_BLOCK, &held, &before_);
    active_ = ::tcgetattr(terminal_, &settings_) == 0;
    if (active_) {
      termios quiet = settings_;
      quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO);
      quiet.c_lflag |= ECHONL;
      ::tcsetattr(terminal_, TCSAFLUSH, &quiet);
    }
  }

  ~Silence() {
    if (active_) {
      ::tcsetattr(terminal_, TCSAFLUSH, &settings_);
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;

 private:
  int terminal_;
  bool active_ = false;
  termios settings_{};
  sigset_t before_{};
};

Outcome<std::string> read_line(int fd) {
  constexpr std::size_t kLongest = 4096;
  std::string out;
  while (out.size() < kLongest) {
    char byte = 0;
    const ssize_t got = ::read(fd, &byte, 1);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      if (out.empty()) {
        return Problem{"no answer was given",
                       "run it on a terminal, or pipe the answer to standard input"};
      }
      return out;
    }
    if (byte == '\n') {
      return out;
    }
    out += byte;
  }
  return Problem{"the answer is too long"};
}

Outcome<std::string> question(const std::string& prompt, bool secret) {
  const UniqueFd terminal(
      ::isatty(STDIN_FILENO) == 1 ? ::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY) : -1);
  const int from = terminal.valid() ? terminal.get() : STDIN_FILENO;
  const int to = terminal.valid() ? terminal.get() : STDERR_FILENO;
  if (::write(to, prompt.data(), prompt.size()) < 0) {
    return system_problem("asking a question", errno);
  }
  std::optional<Silence> silence;
  if (secret) {
    silence.emplace(from);
  }
  return read_line(from);
}

}  // namespace

Outcome<std::string> ask(const std::string& prompt) {
  return question(prompt, false);
}

Outcome<std::string> ask_secret(const std::string& prompt) {
  return question(prompt, true);
}

Outcome<bool> ask_yes(const std::string& prompt) {
  const Outcome<std::string> answer = ask(prompt);
  if (!answer) {
    return answer.error();
  }
  return *answer == "y" || *answer == "Y";
}

Outcome<std::string> ask_new_passphrase() {
  for (int attempt = 0; attempt < 3; ++attempt) {
    POSTERN_TRY_ASSIGN(const std::string first,
                       ask_secret("Enter your passphrase (empty: none): "));
    POSTERN_TRY_ASSIGN(const std::string second, ask_secret("Retype your passphrase: "));
    if (first != second) {
      continue;
    }
    if (!first.empty()) {
      return first;
    }
    POSTERN_TRY_ASSIGN(const bool sure,
                       ask_yes("Really store the secret key without a passphrase? [y/N] "));
    if (sure) {
      return first;
    }
  }
  return Problem{"no passphrase after three attempts"};
}

}  // namespace postern::keys
