// The image's bytes as squashfs sees them: a range of the image file, each 4 KiB block checked
// against the seal where there is one, decrypted where there is a key. The user-space counterpart
// of loop, dm-verity and dm-crypt, in that order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "frontend/squashfs/cipher.h"
#include "frontend/squashfs/read_result.h"
#include "frontend/squashfs/verity.h"

namespace postern::squashfs {

class Gocryptfs;
struct GocryptfsThread;

// The bytes that one thread read last. Grows to the largest block read.
class Window {
 public:
  Window() noexcept;
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;

 private:
  friend class Extent;
  bool grow(std::size_t bytes) noexcept;
  std::byte* memory_ = nullptr;
  std::size_t capacity_ = 0;
  const std::byte* begin_ = nullptr;  // of the valid bytes
  std::uint64_t start_ = 0;           // the same as squashfs counts
  std::size_t length_ = 0;
  CipherContext cipher_;
  std::unique_ptr<GocryptfsThread> container_;
};

class Extent {
 public:
  // `image` is borrowed and stays open; `offset` and `size` are bytes in it. `verity` and `cipher`
  // may be null; they are borrowed. Geometry must have been checked: check_geometry().
  Extent(int image,
         std::uint64_t offset,
         std::uint64_t size,
         Verity* verity = nullptr,
         const Cipher* cipher = nullptr) noexcept;

  // What a gocryptfs file holds; it is borrowed.
  explicit Extent(const Gocryptfs& container) noexcept;

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
  Read<> fill(std::uint64_t start, std::size_t length, Window& window) const noexcept;
  Read<> fill_from_container(std::uint64_t from,
                             std::span<std::byte> bytes,
                             Window& window) const noexcept;
  Read<> read_partition(std::uint64_t position, std::span<std::byte> out) const noexcept;
  Read<> check(std::uint64_t position, std::span<const std::byte> bytes) const noexcept;

  const int image_;
  const std::uint64_t offset_;     // of the partition in the file
  const std::uint64_t partition_;  // its bytes
  Verity* const verity_;
  const Cipher* const cipher_;
  const Gocryptfs* const container_ = nullptr;
  const std::uint64_t base_;  // of squashfs' bytes in the partition
  const std::uint64_t size_;  // of squashfs' bytes
  const std::size_t grain_;   // what is read is a multiple of this from the partition's start
};

// Whether seal and cipher fit a partition of `size` bytes.
Outcome<> check_geometry(std::uint64_t size, const Seal* seal, const CryptGeometry* crypt) noexcept;

}  // namespace postern::squashfs
