// UniqueFd: the one owner of a file descriptor.
#pragma once

#include <cerrno>
#include <utility>

#include <unistd.h>

#include "protocol/base/check.h"

namespace postern {

class UniqueFd {
 public:
  UniqueFd() noexcept = default;

  explicit UniqueFd(int fd) noexcept : fd_(fd) {}

  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}

  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }

  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_; }

  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }

  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

  // close(2) is never retried: on Linux the descriptor is gone whatever it returns. EBADF means
  // that somebody closed a descriptor of ours.
  void reset(int fd = -1) noexcept {
    if (fd_ >= 0) {
      const int saved = errno;
      POSTERN_CHECK(::close(fd_) == 0 || errno != EBADF);
      errno = saved;
    }
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace postern
