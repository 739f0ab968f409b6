// The bytes of an image that decide something, each of them read from the file once.
//
// The caller owns the file and may rewrite it between any two reads. So nothing that parses, hashes
// or compares an image takes a descriptor: it takes a Snapshot, and gets memory. What was fetched
// stays as it was: a later request for the same bytes, or for bytes around them, is served from
// memory and reads only what is missing. What is too large to keep (the data of an unsealed
// partition) is streamed: a piece that is in memory already is hashed from there, the rest is read
// once, and no byte of it can be fetched or streamed again. So two parsers never see two versions
// of one byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "policy/problem.h"

namespace postern {

// A run of bytes of a file.
struct Extent {
  std::uint64_t offset;
  std::uint64_t bytes;

  bool operator==(const Extent&) const = default;
};

class Snapshot {
 public:
  // As pread(2): the number of bytes read at the offset, 0 at the end of the file, a negative
  // errno.
  using Reader = std::function<ssize_t(std::span<std::uint8_t> out, std::uint64_t offset)>;

  enum class Kind : std::uint8_t { kRegular, kDirectory, kOther, kUnknown };

  // Borrows `fd` for as long as the Snapshot lives. Size and kind of the file are asked for here,
  // once. At most `max_kept` bytes are kept: more is an error.
  explicit Snapshot(int fd, std::size_t max_kept = kMaxKeptBytes);
  // A regular file of this size that `reader` reads: for tests that change the file between reads.
  Snapshot(std::uint64_t bytes, Reader reader, std::size_t max_kept = kMaxKeptBytes);

  Snapshot(Snapshot&&) noexcept = default;
  Snapshot& operator=(Snapshot&&) noexcept = default;
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  ~Snapshot() = default;

  [[nodiscard]] Kind kind() const noexcept { return kind_; }

  // Of kind kUnknown: why fstat(2) failed.
  [[nodiscard]] int error() const noexcept { return error_; }

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

  // These bytes, valid for as long as the Snapshot. Error: they are not inside the file, the file
  // became shorter, reading failed, they were streamed before, or too much is kept. `what` begins
  // the message ("reading the header").
  [[nodiscard]] Outcome<std::span<const std::uint8_t>> fetch(const Extent& extent,
                                                             std::string_view what);
  [[nodiscard]] Outcome<std::string_view> fetch_text(const Extent& extent, std::string_view what);

  // A part of a stream: bytes in memory, or (where `held` is empty) bytes to read().
  struct Piece {
    Extent extent;
    std::span<const std::uint8_t> held;
  };

  // The bytes of `extent`, in order, to be read once, now. From here on they can be neither fetched
  // nor streamed. Error: not inside the file, or streamed before.
  [[nodiscard]] Outcome<std::vector<Piece>> stream(const Extent& extent, std::string_view what);

  // Reads the next part of a piece that is not held; at least one byte, unless `out` is empty. Safe
  // on several threads at a time.
  [[nodiscard]] Outcome<std::size_t> read(std::uint64_t offset,
                                          std::span<std::uint8_t> out,
                                          std::string_view what) const;

  static constexpr std::size_t kMaxKeptBytes = std::size_t{1} << 30;

 private:
  struct Region {
    std::uint64_t offset;
    std::unique_ptr<std::uint8_t[]>
        data;  // NOLINT(modernize-avoid-c-arrays): a buffer of run-time size
    std::size_t size;

    [[nodiscard]] std::uint64_t end() const noexcept { return offset + size; }

    [[nodiscard]] std::span<const std::uint8_t> view() const noexcept { return {data.get(), size}; }
  };

  [[nodiscard]] Outcome<> check(const Extent& extent, std::string_view what) const;
  [[nodiscard]] const Region* holding(std::uint64_t offset) const noexcept;
  [[nodiscard]] std::uint64_t next_held(std::uint64_t offset, std::uint64_t end) const noexcept;
  [[nodiscard]] std::vector<Piece> pieces(const Extent& extent) const;

  Reader reader_;
  Kind kind_ = Kind::kRegular;
  int error_ = 0;
  std::uint64_t bytes_ = 0;
  std::size_t max_kept_;
  std::size_t kept_ = 0;
  // They may overlap: where they do, the bytes are copies of one read.
  std::vector<Region> regions_;
  std::vector<Extent> streamed_;
};

}  // namespace postern
