// Writes a tree as a squashfs image into an open file, at an offset: inside a SIF as well as alone.
//
// Made in this process by libsquashfs (squashfs-tools-ng), because its input here is a stream of
// files with owners and devices that no directory on this host can hold, and because a pipe to
// mksquashfs would make squashfs-tools a run-time dependency and its errors guesswork. Compression
// uses one thread a processor; blocks are written in order of arrival, so the bytes do not depend
// on the number of threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "frontend/imagebuild/source.h"

namespace postern::imagebuild {

enum class Compression : std::uint8_t { kZstd, kGzip, kXz, kLz4, kLzo, kNone };

// "zstd", "gzip", "xz", "lz4", "lzo", "none".
std::optional<Compression> compression_of(std::string_view name);

struct SquashOptions {
  Compression compression = Compression::kZstd;
  std::optional<unsigned> level;          // the compressor's default where not given
  std::uint32_t block_bytes = 128 << 10;  // a power of two, 4 KiB … 1 MiB
  bool all_root = false;                  // every owner becomes 0:0
  unsigned threads = 1;
  std::int64_t time = 0;  // modification time of the file system, seconds since 1970
  std::string elsewhere = "choose another place";  // the cure if it cannot be written there
};

// Writes at `offset` of `fd` (read and write; borrowed) and pads to 4096 bytes. Returns the number
// of bytes written. tree.finish() must have been called. Errors name the file system's words
// ("No space left on device").
Outcome<std::uint64_t> write_squashfs(Tree& tree,
                                      Source& source,
                                      const SquashOptions& options,
                                      int fd,
                                      std::uint64_t offset,
                                      message::Progress& progress);

}  // namespace postern::imagebuild
