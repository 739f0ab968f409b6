#include "frontend/squashfs/extent.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

namespace postern::squashfs {
namespace {

constexpr std::size_t kLeastBytes = 32 * 1024;  // of a window

}  // namespace

Window::~Window() {
  if (memory_ != nullptr) {
    ::munmap(memory_, capacity_);
  }
}

bool Window::grow(std::size_t bytes) noexcept {
  if (bytes <= capacity_) {
    return true;
  }
  const std::size_t capacity = std::max(kLeastBytes, std::bit_ceil(bytes));
  void* memory = ::mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return false;
  }
  if (memory_ != nullptr) {
    ::munmap(memory_, capacity_);
  }
  memory_ = static_cast<std::byte*>(memory);
  capacity_ = capacity;
  length_ = 0;
  return true;
}

Read<> Extent::read_file(std::uint64_t position, std::span<std::byte> out) const noexcept {
  while (!out.empty()) {
    const ssize_t got =
        ::pread(image_, out.data(), out.size(), static_cast<off_t>(offset_ + position));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {  // 0: the file was truncated under the mount
      return Errno{EIO};
    }
    out = out.subspan(static_cast<std::size_t>(got));
    position += static_cast<std::uint64_t>(got);
  }
  return Ok{};
}

Read<std::span<const std::byte>> Extent::fetch(std::uint64_t start,
                                               std::size_t length,
                                               Window& window,
                                               std::size_t ahead) const noexcept {
  if (start > size_ || length > size_ - start) {
    return Errno{EIO};
  }
  if (start < window.start_ || start - window.start_ > window.length_ ||
      length > window.length_ - (start - window.start_)) {
    window.length_ = 0;
    const std::size_t wanted =
        std::max(length, static_cast<std::size_t>(std::min<std::uint64_t>(ahead, size_ - start)));
    if (!window.grow(wanted)) {
      return Errno{ENOMEM};
    }
    POSTERN_TRY(read_file(start, {window.memory_, wanted}));
    window.start_ = start;
    window.length_ = wanted;
  }
  return std::span<const std::byte>(window.memory_ + (start - window.start_), length);
}

Read<> Extent::fetch_into(std::uint64_t start,
                          std::span<std::byte> out,
                          Window& window) const noexcept {
  if (start > size_ || out.size() > size_ - start) {
    return Errno{EIO};
  }
  static_cast<void>(window);
  return read_file(start, out);
}

}  // namespace postern::squashfs
