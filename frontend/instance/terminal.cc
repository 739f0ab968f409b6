#include "frontend/instance/terminal.h"

#include <array>
#include <cerrno>
#include <cstdlib>

#include <sys/ioctl.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::instance {
namespace {

constexpr std::size_t kMostPending = 16 * 1024;

bool write_all(int fd, const char* bytes, std::size_t count) noexcept {
  while (count > 0) {
    const ssize_t done = ::write(fd, bytes, count);
    if (done < 0 && errno != EINTR) {
      return false;
    }
    bytes += done > 0 ? done : 0;
    count -= done > 0 ? static_cast<std::size_t>(done) : 0;
  }
  return true;
}

}  // namespace

std::optional<Terminal> Terminal::open() {
  Terminal terminal;
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDOUT_FILENO) != 1 ||
      ::tcgetpgrp(STDIN_FILENO) != ::getpgrp() ||
      ::tcgetattr(STDIN_FILENO, &terminal.before_) != 0) {
    return std::nullopt;
  }
  std::array<char, 128> name = {};
  terminal.master_ = UniqueFd(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (!terminal.master_.valid() || ::grantpt(terminal.master_.get()) != 0 ||
      ::unlockpt(terminal.master_.get()) != 0 ||
      ::ptsname_r(terminal.master_.get(), name.data(), name.size()) != 0) {
    return std::nullopt;
  }
  terminal.slave_ = UniqueFd(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.slave_.valid() ||
      ::tcsetattr(terminal.slave_.get(), TCSANOW, &terminal.before_) != 0) {
    return std::nullopt;
  }
  terminal.resize();
  return terminal;
}

Terminal::~Terminal() {
  take_back();
  if (raw_ && master_.valid()) {
    ::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }
}

bool Terminal::lend() noexcept {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::isatty(fd) != 1) {
      continue;
    }
    UniqueFd& own = own_[static_cast<std::size_t>(fd)];
    own = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!own.valid() || ::dup2(slave_.get(), fd) < 0) {
      return false;
    }
  }
  return true;
}

void Terminal::take_back() noexcept {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    UniqueFd& own = own_[static_cast<std::size_t>(fd)];
    if (own.valid()) {
      ::dup2(own.get(), fd);
      own.reset();
    }
  }
  // The process alone has it: once it is gone, reading ends.
  slave_.reset();
}

void Terminal::begin() noexcept {
  termios raw = before_;
  ::cfmakeraw(&raw);
  raw_ = ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

int Terminal::typed() const noexcept {
  return typing_ended_ || pending_.size() >= kMostPending ? -1 : STDIN_FILENO;
}

void Terminal::pass_typed() noexcept {
  std::array<char, 4096> bytes;
  const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
  if (got > 0) {
    pending_.append(bytes.data(), static_cast<std::size_t>(got));
  } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
    typing_ended_ = true;
  }
  flush_typed();
}

void Terminal::flush_typed() noexcept {
  const ssize_t done =
      pending_.empty() ? 0 : ::write(master_.get(), pending_.data(), pending_.size());
  if (done > 0) {
    pending_.erase(0, static_cast<std::size_t>(done));
  } else if (done < 0 && errno != EAGAIN && errno != EINTR) {
    pending_.clear();
  }
}

bool Terminal::pass_written() noexcept {
  std::array<char, 4096> bytes;
  const ssize_t got = ::read(master_.get(), bytes.data(), bytes.size());
  // EIO: nobody has the other side open.
  return got > 0 && write_all(STDOUT_FILENO, bytes.data(), static_cast<std::size_t>(got));
}

void Terminal::resize() noexcept {
  winsize size = {};
  if (::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0) {
    ::ioctl(master_.get(), TIOCSWINSZ, &size);
  }
}

}  // namespace postern::instance
