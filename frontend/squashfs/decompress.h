// One thread's decoder of blocks: its state is kept from block to block, since making a zstd or
// deflate state costs about as much as decoding a metadata block.
#pragma once

#include <cstddef>
#include <span>

#include "frontend/squashfs/format.h"
#include "frontend/squashfs/read_result.h"

struct libdeflate_decompressor;
struct ZSTD_DCtx_s;

namespace postern::squashfs {

// Whether this program can decode `method`. lzma (the pre-xz format) is the one that it cannot:
// neither can the kernel.
bool can_decode(Compression method) noexcept;

// "gzip", "xz" …; "unknown" for other numbers.
const char* name_of(Compression method) noexcept;

class Decompressor {
 public:
  explicit Decompressor(Compression method) noexcept : method_(method) {}

  ~Decompressor();
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  // Decodes the whole of `in` into the front of `out`; the number of bytes written. EIO: not a
  // valid block of this method, or it does not fit into `out`. ENOMEM.
  Read<std::size_t> decode(std::span<const std::byte> in, std::span<std::byte> out) noexcept;

 private:
  Compression method_;
  libdeflate_decompressor* deflate_ = nullptr;
  ZSTD_DCtx_s* zstd_ = nullptr;
};

}  // namespace postern::squashfs
