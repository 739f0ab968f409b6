#include "frontend/squashfs/decompress.h"

#include <cerrno>

#include <libdeflate.h>
#include <lz4.h>
#include <lzma.h>
#include <lzo/lzo1x.h>
#include <zstd.h>

namespace postern::squashfs {
namespace {

// SAFETY: std::byte may alias anything; these give the libraries the pointer type they ask for.
const char* chars(std::span<const std::byte> bytes) noexcept {
  return reinterpret_cast<const char*>(bytes.data());
}

char* chars(std::span<std::byte> bytes) noexcept {
  return reinterpret_cast<char*>(bytes.data());
}

const unsigned char* octets(std::span<const std::byte> bytes) noexcept {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

unsigned char* octets(std::span<std::byte> bytes) noexcept {
  return reinterpret_cast<unsigned char*>(bytes.data());
}

// A dictionary larger than a block is of no use to it; the rest is the decoder's own state.
constexpr std::uint64_t kXzMemoryBytes = std::uint64_t{4} * kMaxBlockBytes;

Read<std::size_t> decode_xz(std::span<const std::byte> in, std::span<std::byte> out) noexcept {
  std::uint64_t memory = kXzMemoryBytes;
  std::size_t in_at = 0;
  std::size_t out_at = 0;
  const lzma_ret ret = lzma_stream_buffer_decode(&memory, 0, nullptr, octets(in), &in_at, in.size(),
                                                 octets(out), &out_at, out.size());
  if (ret != LZMA_OK) {
    return Errno{ret == LZMA_MEM_ERROR ? ENOMEM : EIO};
  }
  return out_at;
}

Read<std::size_t> decode_lzo(std::span<const std::byte> in, std::span<std::byte> out) noexcept {
  lzo_uint size = out.size();
  if (lzo1x_decompress_safe(octets(in), in.size(), octets(out), &size, nullptr) != LZO_E_OK) {
    return Errno{EIO};
  }
  return std::size_t{size};
}

Read<std::size_t> decode_lz4(std::span<const std::byte> in, std::span<std::byte> out) noexcept {
  const int size = LZ4_decompress_safe(chars(in), chars(out), static_cast<int>(in.size()),
                                       static_cast<int>(out.size()));
  if (size < 0) {
    return Errno{EIO};
  }
  return static_cast<std::size_t>(size);
}

}  // namespace

bool can_decode(Compression method) noexcept {
  switch (method) {
    case Compression::kGzip:
    case Compression::kLzo:
    case Compression::kXz:
    case Compression::kLz4:
    case Compression::kZstd:
      return true;
    case Compression::kLzma:
      return false;
  }
  return false;
}

const char* name_of(Compression method) noexcept {
  switch (method) {
    case Compression::kGzip:
      return "gzip";
    case Compression::kLzma:
      return "lzma";
    case Compression::kLzo:
      return "lzo";
    case Compression::kXz:
      return "xz";
    case Compression::kLz4:
      return "lz4";
    case Compression::kZstd:
      return "zstd";
  }
  return "unknown";
}

Decompressor::~Decompressor() {
  libdeflate_free_decompressor(deflate_);
  ZSTD_freeDCtx(zstd_);
}

Read<std::size_t> Decompressor::decode(std::span<const std::byte> in,
                                       std::span<std::byte> out) noexcept {
  switch (method_) {
    case Compression::kGzip: {
      deflate_ = deflate_ != nullptr ? deflate_ : libdeflate_alloc_decompressor();
      if (deflate_ == nullptr) {
        return Errno{ENOMEM};
      }
      std::size_t size = 0;
      if (libdeflate_zlib_decompress(deflate_, in.data(), in.size(), out.data(), out.size(),
                                     &size) != LIBDEFLATE_SUCCESS) {
        return Errno{EIO};
      }
      return size;
    }
    case Compression::kZstd: {
      zstd_ = zstd_ != nullptr ? zstd_ : ZSTD_createDCtx();
      if (zstd_ == nullptr) {
        return Errno{ENOMEM};
      }
      const std::size_t size =
          ZSTD_decompressDCtx(zstd_, out.data(), out.size(), in.data(), in.size());
      if (ZSTD_isError(size) != 0) {
        return Errno{EIO};
      }
      return size;
    }
    case Compression::kXz:
      return decode_xz(in, out);
    case Compression::kLzo:
      return decode_lzo(in, out);
    case Compression::kLz4:
      return decode_lz4(in, out);
    case Compression::kLzma:
      break;
  }
  return Errno{EIO};
}

}  // namespace postern::squashfs
