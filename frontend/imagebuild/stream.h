// Streams of bytes on the way from a file to an archive reader: an extent of a file, a
// decompressor on top of another stream, a stream that hashes what passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::imagebuild {

class Stream {
 public:
  virtual ~Stream() = default;
  // The next bytes, valid until the next call; empty at the end.
  virtual Outcome<std::span<const std::byte>> next() = 0;
  // Leaves out up to `bytes` bytes without reading them; returns how many (0: cannot).
  virtual std::uint64_t skip(std::uint64_t bytes);
};

// The bytes [offset, offset + size) of `fd`, which is borrowed and must outlive the stream. `name`
// is for messages. A file that ends early is a Problem ("is truncated").
class FileStream : public Stream {
 public:
  FileStream(int fd, std::uint64_t offset, std::uint64_t size, std::string name);
  Outcome<std::span<const std::byte>> next() override;
  std::uint64_t skip(std::uint64_t bytes) override;

  // Called with the number of bytes of each piece read; for progress bars.
  void on_read(std::function<void(std::uint64_t)> report) { report_ = std::move(report); }

  // For a file that grows while it is read: see Layer::available.
  void await(std::function<Outcome<std::uint64_t>(std::uint64_t position)> available) {
    available_ = std::move(available);
  }

 private:
  int fd_;
  std::uint64_t offset_;
  std::uint64_t left_;
  std::string name_;
  std::vector<std::byte> buffer_;
  std::function<void(std::uint64_t)> report_;
  std::function<Outcome<std::uint64_t>(std::uint64_t)> available_;
};

// SHA-256 and length of what passes.
class HashingStream : public Stream {
 public:
  explicit HashingStream(Stream& below);
  ~HashingStream() override;
  HashingStream(const HashingStream&) = delete;
  HashingStream& operator=(const HashingStream&) = delete;
  Outcome<std::span<const std::byte>> next() override;

  // Reads what is left, then returns "sha256:" and 64 hexadecimal digits. Call it once.
  Outcome<std::string> digest();

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

  // The last bytes that passed were at least 1024 zeros: a tar archive that ends properly.
  [[nodiscard]] bool ends_in_zeros() const noexcept { return zeros_ >= 1024; }

 private:
  struct State;
  Stream& below_;
  std::unique_ptr<State> state_;
  std::uint64_t bytes_ = 0;
  std::uint64_t zeros_ = 0;
};

// gzip, bzip2, xz, lzma, lz4, zstd (several frames in a row too) to plain bytes; plain bytes pass.
// Recognised by content. `name` is for messages.
class DecompressingStream : public Stream {
 public:
  DecompressingStream(Stream& below, std::string name);
  ~DecompressingStream() override;
  DecompressingStream(const DecompressingStream&) = delete;
  DecompressingStream& operator=(const DecompressingStream&) = delete;
  Outcome<std::span<const std::byte>> next() override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// True if `head`, the first bytes of a file, are those of a compressed one.
bool is_compressed(std::string_view head);

// "sha256:<hex>" of `bytes`.
std::string sha256_of(std::string_view bytes);

// True for "sha256:" and 64 lower-case hexadecimal digits.
bool is_sha256_digest(std::string_view text);

}  // namespace postern::imagebuild
