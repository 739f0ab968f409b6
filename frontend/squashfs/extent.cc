#include "frontend/squashfs/extent.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>

#include <sys/mman.h>

#include <unistd.h>

#include "frontend/squashfs/gocryptfs.h"

namespace postern::squashfs {
namespace {

constexpr std::size_t kLeastBytes = 32 * 1024;  // of a window

}  // namespace

Window::Window() noexcept = default;

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
  void* memory =
      ::mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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

Extent::Extent(int image,
               std::uint64_t offset,
               std::uint64_t size,
               Verity* verity,
               const Cipher* cipher) noexcept
    : image_(image),
      offset_(offset),
      partition_(size),
      verity_(verity),
      cipher_(cipher),
      base_(cipher != nullptr ? cipher->geometry().data_offset : 0),
      size_(cipher != nullptr ? cipher->geometry().data_bytes : size),
      grain_(verity != nullptr   ? kSealedBlockBytes
             : cipher != nullptr ? cipher->geometry().sector
                                 : 1) {}

Extent::Extent(const Gocryptfs& container) noexcept
    : image_(-1),
      offset_(0),
      partition_(container.size()),
      verity_(nullptr),
      cipher_(nullptr),
      container_(&container),
      base_(0),
      size_(container.size()),
      grain_(Gocryptfs::kPlainBytes) {}

// Beyond the partition's end, inside its last sealed block, there are zeros.
Read<> Extent::read_partition(std::uint64_t position, std::span<std::byte> out) const noexcept {
  if (const std::uint64_t there = partition_ - std::min(partition_, position); out.size() > there) {
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(there), out.end(), std::byte{0});
    out = out.first(there);
  }
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

// BOUNDARY: here the bytes of a sealed image become trusted: what is checked is the copy that is
// used, so a file that is rewritten under the mount gives an error, never altered bytes.
Read<> Extent::check(std::uint64_t position, std::span<const std::byte> bytes) const noexcept {
  for (; !bytes.empty(); bytes = bytes.subspan(kSealedBlockBytes)) {
    POSTERN_TRY(verity_->check(position / kSealedBlockBytes, bytes.first(kSealedBlockBytes)));
    position += kSealedBlockBytes;
  }
  return Ok{};
}

// Reads, checks and decrypts at least [start, start + length) into the window.
Read<> Extent::fill(std::uint64_t start, std::size_t length, Window& window) const noexcept {
  window.length_ = 0;
  const std::uint64_t from = (base_ + start) / grain_ * grain_;
  const std::uint64_t to = (base_ + start + length + grain_ - 1) / grain_ * grain_;
  const std::size_t whole = to - from;
  if (!window.grow(whole)) {
    return Errno{ENOMEM};
  }
  const std::span<std::byte> bytes(window.memory_, whole);
  if (container_ != nullptr) {
    return fill_from_container(from, bytes, window);
  }
  POSTERN_TRY(read_partition(from, bytes));
  if (verity_ != nullptr) {
    POSTERN_TRY(check(from, bytes));
  }
  // A sealed block may begin before the ciphertext does, and end behind it: base and size are
  // multiples of the sector, so what is left in between is whole sectors.
  const std::uint64_t first = std::max(from, base_);
  const std::uint64_t last = std::min(to, base_ + size_);
  const auto used = bytes.subspan(first - from, last - first);
  if (cipher_ != nullptr) {
    POSTERN_TRY(cipher_->decrypt(first - base_, used, window.cipher_));
  }
  window.begin_ = used.data();
  window.start_ = first - base_;
  window.length_ = used.size();
  return Ok{};
}

Read<> Extent::fill_from_container(std::uint64_t from,
                                   std::span<std::byte> bytes,
                                   Window& window) const noexcept {
  if (window.container_ == nullptr) {
    window.container_ = container_->begin();
    if (window.container_ == nullptr) {
      return Errno{ENOMEM};
    }
  }
  const auto used = bytes.first(std::min<std::uint64_t>(bytes.size(), size_ - from));
  POSTERN_TRY(container_->read(from, used, *window.container_));
  window.begin_ = used.data();
  window.start_ = from;
  window.length_ = used.size();
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
    const auto more = static_cast<std::size_t>(std::min<std::uint64_t>(ahead, size_ - start));
    POSTERN_TRY(fill(start, std::max(length, more), window));
  }
  return std::span<const std::byte>(window.begin_ + (start - window.start_), length);
}

Read<> Extent::fetch_into(std::uint64_t start,
                          std::span<std::byte> out,
                          Window& window) const noexcept {
  if (start > size_ || out.size() > size_ - start) {
    return Errno{EIO};
  }
  if (grain_ == 1) {
    return read_partition(start, out);
  }
  POSTERN_TRY_ASSIGN(const auto bytes, fetch(start, out.size(), window));
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return Ok{};
}

Outcome<> check_geometry(std::uint64_t size,
                         const Seal* seal,
                         const CryptGeometry* crypt) noexcept {
  if (seal != nullptr && seal->data_blocks != (size + kSealedBlockBytes - 1) / kSealedBlockBytes) {
    return Problem{.what = "the seal covers " + std::to_string(seal->data_blocks) +
                           " blocks, but the partition has " + std::to_string(size) + " bytes",
                   .cure = "seal the image again"};
  }
  if (crypt == nullptr) {
    return Ok{};
  }
  if (crypt->sector != 512 && crypt->sector != 4096) {
    return Problem{.what = "encrypted sectors of " + std::to_string(crypt->sector) +
                           " bytes are not supported"};
  }
  const bool aligned =
      crypt->data_offset % crypt->sector == 0 && crypt->data_bytes % crypt->sector == 0;
  if (!aligned || crypt->data_bytes == 0 || crypt->data_offset > size ||
      crypt->data_bytes > size - crypt->data_offset) {
    return Problem{.what = "the encrypted data lies outside the partition",
                   .cure = "the image is damaged: copy or build it again"};
  }
  return Ok{};
}

}  // namespace postern::squashfs
