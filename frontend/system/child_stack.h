// The stack of a process that shares our memory until it executes a program.
#pragma once

#include <cstddef>

#include <sys/mman.h>

namespace postern::system {

// Below it lies a guard, so that a process that needs more ends, and does not write into what is
// ours: larger than what alloca(3) of the C library steps over at once.
class ChildStack {
 public:
  ChildStack() noexcept
      : base_(::mmap(nullptr,
                     kGuardBytes + kBytes,
                     PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE,
                     -1,
                     0)) {
    if (base_ != MAP_FAILED &&
        ::mprotect(static_cast<char*>(base_) + kGuardBytes, kBytes, PROT_READ | PROT_WRITE) != 0) {
      ::munmap(base_, kGuardBytes + kBytes);
      base_ = MAP_FAILED;
    }
  }

  ~ChildStack() {
    if (valid()) {
      ::munmap(base_, kGuardBytes + kBytes);
    }
  }

  ChildStack(const ChildStack&) = delete;
  ChildStack& operator=(const ChildStack&) = delete;

  [[nodiscard]] bool valid() const noexcept { return base_ != MAP_FAILED; }

  [[nodiscard]] void* top() const noexcept {
    return static_cast<char*>(base_) + kGuardBytes + kBytes;
  }

 private:
  static constexpr std::size_t kBytes = 512 * 1024;  // helper::build_root keeps its tables there
  static constexpr std::size_t kGuardBytes = 256 * 1024;
  void* base_;
};

}  // namespace postern::system
