// Reading a squashfs image: inodes, directories, links, attributes and data. One Reader a thread;
// what they decode is shared through the Image. Every length and position is checked: an image may
// be hostile.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/squashfs/image.h"

namespace postern::squashfs {

// An inode's address: metadata block relative to the inode table << 16 | offset in the block.
using InodeId = std::uint64_t;

struct Inode {
  InodeId id = 0;
  std::uint32_t mode = 0;  // with the type bits of stat(2)
  std::uint32_t number = 0;
  std::uint32_t mtime = 0;
  std::uint32_t links = 1;
  std::uint32_t xattr = kNoXattr;
  std::uint16_t uid_index = 0;
  std::uint16_t gid_index = 0;
  std::uint64_t size = 0;  // of a file, a link's text, or a directory's listing + 3
  MetadataCursor next;     // what follows: block lengths, link text or directory index
  // Files.
  std::uint64_t start = 0;
  std::uint64_t sparse = 0;
  std::uint32_t fragment = kNoFragment;
  std::uint32_t fragment_offset = 0;
  // Directories.
  std::uint32_t listing = 0;  // metadata block relative to the directory table
  std::uint16_t listing_offset = 0;
  std::uint16_t index_count = 0;
  std::uint32_t parent = 0;  // inode number
  // Devices, as the image has it: the kernel's own encoding of major and minor.
  std::uint32_t device = 0;
};

struct Entry {
  InodeId inode = 0;
  std::uint32_t number = 0;
  std::uint32_t mode = 0;  // the type bits
  std::uint32_t next = 0;  // position in the listing of what follows
  std::array<char, kMaxNameBytes + 1> name_bytes;
  std::size_t name_size = 0;

  [[nodiscard]] std::string_view name() const noexcept { return {name_bytes.data(), name_size}; }
};

// A place in a directory's listing.
struct ListingCursor {
  MetadataCursor at;
  std::uint32_t position = 0;   // bytes of the listing before `at`
  std::uint32_t end = 0;        // bytes of the whole listing
  std::uint32_t remaining = 0;  // entries until the next header
  std::uint32_t start = 0;      // of the current header
  std::uint32_t number = 0;
};

// One block of a file: which block of the image holds it, and which bytes of that when decoded.
struct DataBlock {
  BlockKey key;
  std::uint32_t offset = 0;  // 0 but in a fragment, which holds the ends of several files
  std::uint32_t length = 0;  // bytes of the file

  [[nodiscard]] bool hole() const noexcept { return key.word == 0; }  // reads as zeros
};

class Reader final : private BlockCache::Decoder {
 public:
  explicit Reader(Image& image) noexcept : image_(image), decompressor_(image.compression()) {}

  [[nodiscard]] Image& image() noexcept { return image_; }

  [[nodiscard]] InodeId root() const noexcept { return image_.super().root_inode; }

  // EIO where the image is damaged, here and below.
  Read<Inode> inode(InodeId id) noexcept;
  Read<std::uint32_t> id(std::uint16_t index) noexcept;
  Read<std::string> link_text(const Inode& inode) noexcept;

  // The listing from `position` on: 0, or a `next` of an entry.
  Read<ListingCursor> open_listing(const Inode& directory, std::uint32_t position) noexcept;
  // False at the end.
  Read<bool> next_entry(ListingCursor& cursor, Entry& entry) noexcept;
  // So that the next open_listing() of this directory at this place need not search for it.
  void remember(const Inode& directory, const ListingCursor& cursor) noexcept;
  // False: no such name.
  Read<bool> find_entry(const Inode& directory, std::string_view name, Entry& entry) noexcept;

  // Attributes with their prefix ("user.x"). `trusted.` ones are left out: they are the kernel's
  // own (overlayfs), and an image is not to be trusted with them. ENODATA, ERANGE as getxattr(2).
  Read<std::string> xattr(const Inode& inode, std::string_view name) noexcept;
  Read<std::string> xattr_names(const Inode& inode) noexcept;

  // Appends blocks `first` … of a file to `out`, at most `count`, fewer at its end.
  Read<> blocks(const Inode& file,
                std::uint64_t first,
                std::size_t count,
                std::vector<DataBlock>& out) noexcept;
  // The whole of fragment `index`, whatever its length.
  Read<DataBlock> fragment(std::uint32_t index) noexcept;
  // A block that is no hole, decoded, and long enough for its `offset` and `length`.
  Read<BlockCache::Pin> data(const DataBlock& block) noexcept;

 private:
  Read<BlockCache::Decoded> decode(const BlockKey& key,
                                   std::span<std::byte> slot) noexcept override;
  Read<BlockCache::Decoded> decode_metadata(const BlockKey& key,
                                            std::span<std::byte> slot) noexcept;

  // The decoded metadata block at `position`, held until some calls later.
  Read<const BlockCache::Pin*> metadata_block(std::uint64_t position) noexcept;
  Read<> read_metadata(MetadataCursor& cursor, void* out, std::size_t size) noexcept;
  Read<> skip_metadata(MetadataCursor& cursor, std::uint64_t size) noexcept;
  Read<> table_entry(const Table& table, std::uint64_t index, void* out) noexcept;
  Read<> read_body(Inode& inode, InodeType type, MetadataCursor& cursor) noexcept;
  Read<> read_file_body(Inode& inode, bool extended, MetadataCursor& cursor) noexcept;
  Read<> read_directory_body(Inode& inode, bool extended, MetadataCursor& cursor) noexcept;
  Read<> seek_by_index(const Inode& directory,
                       ListingCursor& cursor,
                       std::string_view name,
                       std::uint32_t position) noexcept;
  // Blocks that are not in a fragment.
  [[nodiscard]] std::uint64_t full_blocks(const Inode& file) const noexcept;
  Read<Image::BlockIndex::Entry> locate(const Inode& file, std::uint64_t block) noexcept;
  Read<> advance(Image::BlockIndex::Entry& at, std::uint64_t blocks) noexcept;
  template <class Visit>
  Read<> each_xattr(const Inode& inode, Visit visit) noexcept;

  struct Held {
    std::uint64_t position = 0;  // 0: none (the superblock lies there)
    BlockCache::Pin pin;
  };

  Image& image_;
  Decompressor decompressor_;
  Window window_;
  Window metadata_window_;
  // The metadata blocks in use: inode, listing, id and fragment table.
  std::array<Held, 4> held_;
  std::size_t next_held_ = 0;
  InodeId listing_inode_ = 0;
  ListingCursor listing_;
};

}  // namespace postern::squashfs
