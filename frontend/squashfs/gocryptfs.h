// A squashfs inside of a gocryptfs file inside of a squashfs, as Apptainer encrypts for users who
// are not root. gocryptfs (its "file format" document): a header of 18 bytes, two for the version
// and 16 that name the file, then blocks of 4096 bytes, each as a nonce of 16 bytes, the ciphertext
// and a tag of 16 bytes: AES-256-GCM, with the block's number and the file's name authenticated.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "frontend/squashfs/cipher.h"
#include "frontend/squashfs/reader.h"

namespace postern::squashfs {

// What one thread reads the outer image with.
struct GocryptfsThread {
  explicit GocryptfsThread(Image& outer) noexcept : reader(outer) {}

  Reader reader;
  GcmContext cipher;
  std::vector<std::byte> sealed;  // blocks as the file has them
};

class Gocryptfs {
 public:
  static constexpr std::size_t kPlainBytes = 4096;
  static constexpr std::size_t kKeyBytes = 32;

  // Opens the outer image; `extent` is borrowed. `cipher` decrypts the file in it.
  static Outcome<std::unique_ptr<Gocryptfs>> open(const Extent& extent,
                                                  const GcmCipher& cipher) noexcept;

  // The text of gocryptfs.conf, from which the key is made.
  static Outcome<std::string> configuration(const Extent& extent) noexcept;

  // Bytes in the clear.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  [[nodiscard]] std::unique_ptr<GocryptfsThread> begin() const noexcept;

  // Decrypts from `start`, a multiple of kPlainBytes, on; `out` ends at one, or at the end. EIO:
  // somebody changed the file, or the key is another's.
  Read<> read(std::uint64_t start,
              std::span<std::byte> out,
              GocryptfsThread& thread) const noexcept;

 private:
  Gocryptfs(std::unique_ptr<Image> outer, const GcmCipher& cipher) noexcept
      : outer_(std::move(outer)), cipher_(cipher) {}

  Read<> read_sealed(std::uint64_t start, std::span<std::byte> out, Reader& reader) const noexcept;

  std::unique_ptr<Image> outer_;
  const GcmCipher& cipher_;
  Inode file_;
  std::array<std::byte, 16> name_{};
  std::uint64_t size_ = 0;
};

}  // namespace postern::squashfs
