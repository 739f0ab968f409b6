#include "frontend/crypt/prompt.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::crypt {
namespace {

// Echo is off while this lives. Signals that would end the program are held back meanwhile and
// arrive when the terminal is as it was.
class NoEcho {
 public:
  explicit NoEcho(int terminal) : terminal_(terminal) {
    sigset_t ending;
    sigemptyset(&ending);
    for (const int signal : {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGTSTP}) {
      sigaddset(&ending, signal);
    }
    (void)::sigprocmask(SIG_BLOCK, &ending, &before_);
    saved_valid_ = ::tcgetattr(terminal_, &saved_) == 0;
    if (saved_valid_) {
      termios quiet = saved_;
      // ISIG off: Ctrl-C arrives as a character, which ends the line (see read_line).
      quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO | ISIG);
      (void)::tcsetattr(terminal_, TCSAFLUSH, &quiet);
    }
  }

  NoEcho(const NoEcho&) = delete;
  NoEcho& operator=(const NoEcho&) = delete;

  ~NoEcho() {
    if (saved_valid_) {
      (void)::tcsetattr(terminal_, TCSAFLUSH, &saved_);
    }
    (void)::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  int terminal_;
  termios saved_{};
  sigset_t before_{};
  bool saved_valid_ = false;
};

}  // namespace

Outcome<SecretBytes> prompt_secret(const std::string& prompt) {
  const UniqueFd terminal(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!terminal.valid()) {
    return Problem{.what = "a passphrase is needed and there is no terminal to ask for it",
                   .cure = "give it with --passphrase-fd, --passphrase-file or --key-command"};
  }
  (void)!::write(terminal.get(), prompt.data(), prompt.size());
  SecretBytes secret(kMaxPassphraseBytes);
  std::size_t size = 0;
  bool interrupted = false;
  {
    const NoEcho quiet(terminal.get());
    for (;;) {
      std::byte& byte = secret.bytes()[size];
      const ssize_t got = ::read(terminal.get(), &byte, 1);
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got <= 0 || byte == std::byte{'\n'}) {
        break;
      }
      if (byte == std::byte{3} ||
          size + 1 == secret.size()) {  // Ctrl-C, or longer than anybody types
        interrupted = true;
        break;
      }
      ++size;
    }
  }
  (void)!::write(terminal.get(), "\n", 1);
  if (interrupted) {
    return Problem{.what = "interrupted"};
  }
  secret.truncate(size);
  return secret;
}

}  // namespace postern::crypt
