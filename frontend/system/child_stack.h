// The stack of a process that shares our memory until it executes a program.
#pragma once

#include <cstddef>

#include <sys/mman.h>

namespace postern::system {

class ChildStack {
 public:
  ChildStack() noexcept
      : base_(::mmap(nullptr,
                     kBytes,
                     PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE,
                     -1,
                     0)) {}

  ~ChildStack() {
    if (valid()) {
      ::munmap(base_, kBytes);
    }
  }

  ChildStack(const ChildStack&) = delete;
  ChildStack& operator=(const ChildStack&) = delete;

  [[nodiscard]] bool valid() const noexcept { return base_ != MAP_FAILED; }

  [[nodiscard]] void* top() const noexcept { return static_cast<char*>(base_) + kBytes; }

 private:
  static constexpr std::size_t kBytes = 512 * 1024;  // helper::build_root keeps its tables there
  void* base_;
};

}  // namespace postern::system
