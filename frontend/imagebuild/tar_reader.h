// Members of a tar archive (ustar, GNU, pax, star), one after the other, from a stream of plain
// bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "frontend/imagebuild/stream.h"
#include "frontend/imagebuild/tree.h"

struct archive_entry;  // of libarchive

namespace postern::imagebuild {

struct TarEntry {
  std::string name;         // as stored, any bytes
  bool hard_link = false;   // then only `link_target` counts
  bool ignored = false;     // a kind that images do not keep (socket, volume label)
  std::string link_target;  // of a hard link
  Inode inode;              // everything else
};

class TarReader {
 public:
  // `name` is for messages. `below` must outlive the reader.
  TarReader(Stream& below, std::string name);
  ~TarReader();
  TarReader(const TarReader&) = delete;
  TarReader& operator=(const TarReader&) = delete;

  // The next member, skipping what is left of the present one's data; nothing at the end. Errors:
  // damaged or truncated archive, values that no file system holds.
  Outcome<std::optional<TarEntry>> next();

  struct Piece {
    std::uint64_t offset = 0;  // in the file; a gap before it is a hole
    std::span<const std::byte> bytes;
  };

  // The next piece of the present member's data, nothing at its end.
  Outcome<std::optional<Piece>> read();

  // Where the present member's data starts in the stream, in bytes.
  [[nodiscard]] std::uint64_t data_offset() const;

 private:
  struct State;
  Outcome<::archive_entry*> next_header();

  std::unique_ptr<State> state_;
};

}  // namespace postern::imagebuild
