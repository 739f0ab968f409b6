// What every privileged step is written with: results of system calls, short texts, capabilities.
#pragma once

#include <array>
#include <charconv>
#include <span>

#include <linux/capability.h>
#include <sys/syscall.h>

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::helper {

// Ok, or an error with `err`, by default errno. The line recorded is the caller's.
inline Result<> require(bool good, Op op, int err = 0, const char* file = __builtin_FILE(),
                        unsigned line = __builtin_LINE()) noexcept {
  if (good) return Ok{};
  return Error{.err = err != 0 ? err : errno, .op = op, .file = file, .line = line};
}

// The new descriptor that a call returned.
inline Result<UniqueFd> own(long fd, Op op, const char* file = __builtin_FILE(),
                            unsigned line = __builtin_LINE()) noexcept {
  POSTERN_TRY(require(fd >= 0, op, 0, file, line));
  return UniqueFd(static_cast<int>(fd));
}

// A short text of our own making: constants and numbers. Too long is a bug, not a cut text.
class Text {
 public:
  Text& add(const char* more) noexcept {
    for (; *more != '\0'; ++more) put(*more);
    return *this;
  }
  Text& add(std::uint64_t value, int base = 10) noexcept {
    used_ = static_cast<std::size_t>(std::to_chars(&text_[used_], &text_.back(), value, base).ptr - text_.data());
    return *this;
  }
  Text& hex(std::span<const std::uint8_t> bytes) noexcept {
    for (const std::uint8_t byte : bytes) add(byte / 16U, 16).add(byte % 16U, 16);
    return *this;
  }
  const char* text() const noexcept { return text_.data(); }

 private:
  void put(char c) noexcept {
    POSTERN_CHECK(used_ + 1 < text_.size());
    text_[used_++] = c;
  }
  std::array<char, 512> text_{};
  std::size_t used_ = 0;
};

constexpr std::uint64_t bit(unsigned n) noexcept {
  return std::uint64_t{1} << n;
}

// Keeps of the permitted set what `permitted` allows, and makes exactly the rest of the sets what is
// asked, as far as still permitted. Proved by reading back; a failure ends the process, because it
// would leave a privilege on.
inline void set_capabilities(std::uint64_t permitted, std::uint64_t effective, std::uint64_t inheritable) noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> want{};
  POSTERN_CHECK(::syscall(SYS_capget, &header, want.data()) == 0);
  for (unsigned i = 0; i < 2; ++i) {
    want[i].permitted &= static_cast<std::uint32_t>(permitted >> (32 * i));
    want[i].effective = want[i].permitted & static_cast<std::uint32_t>(effective >> (32 * i));
    want[i].inheritable = want[i].permitted & static_cast<std::uint32_t>(inheritable >> (32 * i));
  }
  auto have = want;
  POSTERN_CHECK(::syscall(SYS_capset, &header, want.data()) == 0);
  POSTERN_CHECK(::syscall(SYS_capget, &header, have.data()) == 0);
  for (unsigned i = 0; i < 2; ++i)
    POSTERN_CHECK(have[i].permitted == want[i].permitted && have[i].effective == want[i].effective &&
                  have[i].inheritable == want[i].inheritable);
}

}  // namespace postern::helper
