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

// The pointer, which must not be null.
template <class T>
T* checked(T* pointer) noexcept {
  return pointer != nullptr ? pointer : (die_of_bug(), pointer);
}

}  // namespace postern

#define POSTERN_CHECK(condition) ((condition) ? void() : ::postern::die_of_bug())
