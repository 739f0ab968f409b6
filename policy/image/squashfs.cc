#include "policy/image/squashfs.h"

#include <array>
#include <string>

#include "policy/sif/bytes.h"

namespace postern::image {
namespace {

using sif::load;

constexpr std::uint32_t kMagic = 0x73717368;  // "hsqs"
constexpr std::uint64_t kNoTable = ~std::uint64_t{0};
constexpr std::uint32_t kMinBlock = 4096;
constexpr std::uint32_t kMaxBlock = 1024 * 1024;

Problem damaged(std::string why) {
  return Problem{
      .what = "not a usable squashfs file system: " + std::move(why),
      .cure = "the image is damaged or was not copied completely; fetch or build it again"};
}

Outcome<> check_tables(std::span<const std::uint8_t> b, std::uint64_t bytes_used) {
  struct Table {
    const char* name;
    std::size_t at;
    bool optional;
  };

  // The kernel's own test: these lie in this order (fs/squashfs/super.c); an absent one is all
  // ones.
  constexpr std::array kTables = std::to_array<Table>({
      {"inode", 64, false},
      {"directory", 72, false},
      {"fragment", 80, true},
      {"export", 88, true},
      {"id", 48, false},
      {"xattr", 56, true},
  });
  std::uint64_t least = kSuperblockBytes;
  for (const Table& table : kTables) {
    const auto start = load<std::uint64_t>(b, table.at);
    if (table.optional && start == kNoTable) {
      continue;
    }
    if (start < least || start >= bytes_used) {
      return damaged(std::string("its ") + table.name + " table is out of place");
    }
    least = start;
  }
  return Ok{};
}

}  // namespace

std::string_view name_of(Compression compression) noexcept {
  constexpr std::array<std::string_view, 6> kNames{"gzip", "lzma", "lzo", "xz", "lz4", "zstd"};
  const auto index = static_cast<std::size_t>(compression) - 1;
  return index < kNames.size() ? kNames[index] : "unknown";
}

bool is_squashfs(std::span<const std::uint8_t> bytes) noexcept {
  return bytes.size() >= 4 && load<std::uint32_t>(bytes, 0) == kMagic;
}

Outcome<Superblock> parse_superblock(std::span<const std::uint8_t> b, std::uint64_t extent_bytes) {
  if (b.size() < kSuperblockBytes || extent_bytes < kSuperblockBytes) {
    return damaged("it ends inside the superblock");
  }
  if (!is_squashfs(b)) {
    return damaged("the magic number is missing");
  }
  const auto major = load<std::uint16_t>(b, 28);
  const auto minor = load<std::uint16_t>(b, 30);
  if (major != 4 || minor != 0) {
    return damaged("version " + std::to_string(major) + "." + std::to_string(minor) +
                   " (only 4.0 is supported)");
  }
  Superblock s{};
  s.inodes = load<std::uint32_t>(b, 4);
  s.block_bytes = load<std::uint32_t>(b, 12);
  const auto block_log = load<std::uint16_t>(b, 22);
  if (s.block_bytes < kMinBlock || s.block_bytes > kMaxBlock || block_log > 20 ||
      (std::uint32_t{1} << block_log) != s.block_bytes) {
    return damaged("impossible block size");
  }
  const auto compression = load<std::uint16_t>(b, 20);
  if (compression < 1 || compression > 6) {
    return damaged("unknown compression " + std::to_string(compression));
  }
  s.compression = static_cast<Compression>(compression);
  s.bytes_used = load<std::uint64_t>(b, 40);
  if (s.bytes_used < kSuperblockBytes || s.bytes_used > extent_bytes) {
    return damaged("it needs " + std::to_string(s.bytes_used) + " bytes and has " +
                   std::to_string(extent_bytes));
  }
  if (s.inodes == 0 || load<std::uint16_t>(b, 26) == 0) {
    return damaged("it has no files");
  }
  POSTERN_TRY(check_tables(b, s.bytes_used));
  // Root inode reference: block start relative to the inode table, and offset in an 8 KiB block.
  const auto root = load<std::uint64_t>(b, 32);
  const std::uint64_t inode_table = load<std::uint64_t>(b, 64);
  const std::uint64_t directory_table = load<std::uint64_t>(b, 72);
  if ((root >> 16) >= directory_table - inode_table || (root & 0xffff) >= 8192) {
    return damaged("its root directory is out of place");
  }
  return s;
}

}  // namespace postern::image
