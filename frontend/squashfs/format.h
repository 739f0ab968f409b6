// squashfs 4.0 as it lies in the image: little-endian, unaligned, written by mksquashfs(1) and
// described in the Linux source, fs/squashfs/squashfs_fs.h and
// Documentation/filesystems/squashfs.rst.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace postern::squashfs {

static_assert(std::endian::native == std::endian::little, "the structs below are read as they lie");

inline constexpr std::uint32_t kMagic = 0x73717368;  // "hsqs"
inline constexpr std::size_t kMetadataBytes = 8192;  // decoded size of a metadata block, at most
inline constexpr std::uint32_t kMinBlockBytes = 4096;
inline constexpr std::uint32_t kMaxBlockBytes = 1U << 20;
inline constexpr std::size_t kMaxNameBytes = 255;     // NAME_MAX; squashfs itself allows 256
inline constexpr std::size_t kMaxLinkBytes = 4095;    // PATH_MAX without the NUL
inline constexpr std::size_t kMaxXattrBytes = 65536;  // XATTR_SIZE_MAX, XATTR_LIST_MAX
inline constexpr std::uint32_t kMaxEntriesOfHeader = 256;

inline constexpr std::uint32_t kNoFragment = 0xffffffff;
inline constexpr std::uint32_t kNoXattr = 0xffffffff;
inline constexpr std::uint64_t kNoTable = ~std::uint64_t{0};

// Length word of a metadata block (16 bit) and of a data block or fragment (32 bit): the bit says
// that the bytes are stored as they are.
inline constexpr std::uint16_t kMetadataStored = 1U << 15;
inline constexpr std::uint32_t kDataStored = 1U << 24;

enum class Compression : std::uint16_t {
  kGzip = 1,
  kLzma = 2,
  kLzo = 3,
  kXz = 4,
  kLz4 = 5,
  kZstd = 6,
};

enum class InodeType : std::uint16_t {
  kDirectory = 1,
  kFile,
  kSymlink,
  kBlockDevice,
  kCharDevice,
  kFifo,
  kSocket,
  kLongDirectory,
  kLongFile,
  kLongSymlink,
  kLongBlockDevice,
  kLongCharDevice,
  kLongFifo,
  kLongSocket,
};

struct [[gnu::packed]] SuperBlock {
  std::uint32_t magic;
  std::uint32_t inodes;
  std::uint32_t mkfs_time;
  std::uint32_t block_size;
  std::uint32_t fragments;
  std::uint16_t compression;
  std::uint16_t block_log;
  std::uint16_t flags;
  std::uint16_t ids;
  std::uint16_t major;
  std::uint16_t minor;
  std::uint64_t root_inode;
  std::uint64_t bytes_used;
  std::uint64_t id_table;
  std::uint64_t xattr_id_table;
  std::uint64_t inode_table;
  std::uint64_t directory_table;
  std::uint64_t fragment_table;
  std::uint64_t export_table;
};

static_assert(sizeof(SuperBlock) == 96);

struct [[gnu::packed]] InodeHead {
  std::uint16_t type;
  std::uint16_t mode;
  std::uint16_t uid_index;
  std::uint16_t gid_index;
  std::uint32_t mtime;
  std::uint32_t number;
};

// What follows the head, by type.
struct [[gnu::packed]] FileBody {
  std::uint32_t start;
  std::uint32_t fragment;
  std::uint32_t fragment_offset;
  std::uint32_t size;
};

struct [[gnu::packed]] LongFileBody {
  std::uint64_t start;
  std::uint64_t size;
  std::uint64_t sparse;  // bytes in holes
  std::uint32_t links;
  std::uint32_t fragment;
  std::uint32_t fragment_offset;
  std::uint32_t xattr;
};

struct [[gnu::packed]] DirectoryBody {
  std::uint32_t start;
  std::uint32_t links;
  std::uint16_t size;
  std::uint16_t offset;
  std::uint32_t parent;
};

struct [[gnu::packed]] LongDirectoryBody {
  std::uint32_t links;
  std::uint32_t size;
  std::uint32_t start;
  std::uint32_t parent;
  std::uint16_t index_count;
  std::uint16_t offset;
  std::uint32_t xattr;
};

struct [[gnu::packed]] SymlinkBody {  // then the text; long ones: then the xattr index
  std::uint32_t links;
  std::uint32_t size;
};

struct [[gnu::packed]] DeviceBody {  // long ones: then the xattr index
  std::uint32_t links;
  std::uint32_t device;
};

struct [[gnu::packed]] IpcBody {  // long ones: then the xattr index
  std::uint32_t links;
};

struct [[gnu::packed]] DirectoryIndex {  // then name_size + 1 bytes of the first name behind it
  std::uint32_t position;                // in the listing
  std::uint32_t start;                   // metadata block, relative to the directory table
  std::uint32_t name_size;
};

struct [[gnu::packed]] DirectoryHeader {
  std::uint32_t count;  // entries that follow, less one
  std::uint32_t start;  // metadata block of their inodes, relative to the inode table
  std::uint32_t number;
};

struct [[gnu::packed]] DirectoryEntry {  // then name_size + 1 bytes
  std::uint16_t offset;
  std::int16_t number;  // relative to the header's
  std::uint16_t type;
  std::uint16_t name_size;
};

struct [[gnu::packed]] FragmentEntry {
  std::uint64_t start;
  std::uint32_t size;  // a data length word
  std::uint32_t unused;
};

struct [[gnu::packed]] XattrTable {
  std::uint64_t values;  // where the attributes' metadata blocks begin
  std::uint32_t ids;
  std::uint32_t unused;
};

struct [[gnu::packed]] XattrId {
  std::uint64_t reference;
  std::uint32_t count;
  std::uint32_t size;
};

struct [[gnu::packed]] XattrEntry {  // then the name without its prefix, then the value
  std::uint16_t type;
  std::uint16_t name_size;
};

inline constexpr std::uint16_t kXattrOutOfLine = 0x100;
inline constexpr std::uint16_t kXattrPrefixMask = 0xff;

}  // namespace postern::squashfs
