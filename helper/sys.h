// A system call's result as a Result: the errno, what was being done, and the line that did it.
#pragma once

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::helper {

// Ok where the call did not return -1.
inline Result<> call(long result, Op op, const char* file = __builtin_FILE(),
                     unsigned line = __builtin_LINE()) noexcept {
  return result != -1 ? Result<>() : Error{.err = errno, .op = op, .file = file, .line = line};
}

// The new descriptor that the call returned.
inline Result<UniqueFd> own(long fd, Op op, const char* file = __builtin_FILE(),
                            unsigned line = __builtin_LINE()) noexcept {
  POSTERN_TRY(call(fd, op, file, line));
  return UniqueFd(static_cast<int>(fd));
}

}  // namespace postern::helper
