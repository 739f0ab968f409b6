// The superblock of squashfs 4.0: 96 bytes, little endian, at the start of the file system.
//
//     0 magic "hsqs"   4 inodes u32      8 mkfs time u32      12 block size u32   16 fragments u32
//    20 compression u16   22 log2(block size) u16   24 flags u16   26 ids u16
//    28 major u16 (4)     30 minor u16 (0)          32 root inode reference u64
//    40 bytes used u64    48 id table u64           56 xattr table u64 (all ones = none)
//    64 inode table u64   72 directory table u64    80 fragment table u64   88 export table u64
//
// Source: squashfs_fs.h of Linux and squashfs-tools (struct squashfs_super_block).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "policy/problem.h"

namespace postern::image {

inline constexpr std::size_t kSuperblockBytes = 96;

enum class Compression : std::uint16_t { kGzip = 1, kLzma, kLzo, kXz, kLz4, kZstd };

std::string_view name_of(Compression compression) noexcept;

struct Superblock {
  std::uint32_t inodes;
  std::uint32_t block_bytes;  // power of two, 4 KiB … 1 MiB
  Compression compression;
  std::uint64_t bytes_used;  // ≤ the extent
};

// Does `bytes` begin with the magic number?
bool is_squashfs(std::span<const std::uint8_t> bytes) noexcept;

// Checks the superblock of a file system that has `extent_bytes` bytes to lie in: version, block
// size, compression, every table behind the superblock, in the order squashfs has them, and inside
// bytes_used, and bytes_used inside the extent. `bytes` holds at least kSuperblockBytes.
Outcome<Superblock> parse_superblock(std::span<const std::uint8_t> bytes,
                                     std::uint64_t extent_bytes);

}  // namespace postern::image
