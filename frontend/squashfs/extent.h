// The image's bytes as squashfs sees them: a range of the image file, each 4 KiB block checked
// against the seal where there is one, decrypted where there is a key. The user-space counterpart
// of loop, dm-verity and dm-crypt, in that order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "frontend/squashfs/read_result.h"

namespace postern::squashfs {

// The bytes that one thread read last. Grows to the largest block read.
class Window {
 public:
  Window() = default;
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

 private:
  friend class Extent;
  bool grow(std::size_t bytes) noexcept;
  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0;
  std::uint64_t start_ = 0;  // of the valid bytes, in plaintext offsets
  std::size_t length_ = 0;
};

class Extent {
 public:
  // `image` is borrowed and stays open; `offset` and `size` are bytes in it.
  Extent(int image, std::uint64_t offset, std::uint64_t size) noexcept
      : image_(image), offset_(offset), size_(size) {}

  // Bytes that squashfs can read.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  // `length` bytes from `start` on, valid until the next call with the same window. Where they are
  // not in the window yet, up to `ahead` bytes are read, so that what follows is there. EIO:
  // beyond the end, the file is shorter than it was, or the bytes do not match the seal. ENOMEM.
  Read<std::span<const std::byte>> fetch(std::uint64_t start,
                                         std::size_t length,
                                         Window& window,
                                         std::size_t ahead = 0) const noexcept;
  // The same into memory of the caller's: no copy where the bytes need neither check nor key.
  Read<> fetch_into(std::uint64_t start, std::span<std::byte> out, Window& window) const noexcept;

 private:
  Read<> read_file(std::uint64_t position, std::span<std::byte> out) const noexcept;

  const int image_;
  const std::uint64_t offset_;
  const std::uint64_t size_;
};

}  // namespace postern::squashfs
