// POSTERN_CHECK: an invariant that only a bug of ours, or a malformed message, can break.
#pragma once

#include <unistd.h>

namespace postern {

// Exit status of a process that found a broken invariant. No text is built: the bytes that led
// here may be hostile (STYLE: "bug").
inline constexpr int kExitBug = 254;

[[noreturn]] inline void die_of_bug() noexcept {
  ::_exit(kExitBug);
}

}  // namespace postern

#define POSTERN_CHECK(condition)                  \
  do {                                            \
    if (!(condition)) [[unlikely]] {              \
      ::postern::die_of_bug();                    \
    }                                             \
  } while (false)
