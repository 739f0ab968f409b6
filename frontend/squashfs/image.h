// A squashfs image: superblock and tables, and the caches that the threads share.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "frontend/squashfs/block_cache.h"
#include "frontend/squashfs/decompress.h"
#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/format.h"
#include "frontend/squashfs/read_result.h"
#include "policy/problem.h"

namespace postern::squashfs {

// Where a run of metadata begins: an absolute position of a metadata block, and an offset into
// what it decodes to.
struct MetadataCursor {
  std::uint64_t block = 0;
  std::uint32_t offset = 0;
};

// A table of fixed-size entries in metadata blocks, found through an array of their positions.
struct Table {
  std::size_t entry_bytes = 0;
  std::uint64_t count = 0;
  std::vector<std::uint64_t> blocks;
};

class Image {
 public:
  // Memory for decoded blocks, in bytes: data, and metadata.
  struct CacheBytes {
    std::size_t data;
    std::size_t metadata;
  };

  // Reads the superblock and the tables' positions. The problem says what is wrong with the image.
  static Outcome<std::unique_ptr<Image>> open(const Extent& extent, CacheBytes cache) noexcept;

  [[nodiscard]] const Extent& extent() const noexcept { return extent_; }

  [[nodiscard]] const SuperBlock& super() const noexcept { return super_; }

  [[nodiscard]] Compression compression() const noexcept {
    return static_cast<Compression>(super_.compression);
  }

  [[nodiscard]] const Table& ids() const noexcept { return ids_; }

  [[nodiscard]] const Table& fragments() const noexcept { return fragments_; }

  [[nodiscard]] const Table& xattrs() const noexcept { return xattrs_; }

  [[nodiscard]] std::uint64_t xattr_values() const noexcept { return xattr_values_; }

  BlockCache& data() noexcept { return data_; }

  BlockCache& metadata() noexcept { return metadata_; }

  // Where the block list of a large file can be entered: every `stride` blocks, the cursor of the
  // length word and the position of the data.
  struct BlockIndex {
    std::uint64_t inode = 0;
    std::uint64_t stride = 0;

    struct Entry {
      MetadataCursor words;
      std::uint64_t data = 0;
    };

    std::vector<Entry> entries;
  };

  // The indexes of the files that were read last.
  std::mutex index_mutex;
  std::vector<BlockIndex> indexes;

 private:
  Image(const Extent& extent, const SuperBlock& super, CacheBytes cache) noexcept;

  const Extent& extent_;
  const SuperBlock super_;
  Table ids_;
  Table fragments_;
  Table xattrs_;
  std::uint64_t xattr_values_ = 0;
  BlockCache data_;
  BlockCache metadata_;
};

}  // namespace postern::squashfs
