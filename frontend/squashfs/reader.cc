#include "frontend/squashfs/reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/stat.h>

namespace postern::squashfs {
namespace {

// A metadata block with its length word; what one pread of metadata asks for.
constexpr std::size_t kMetadataRead = kMetadataBytes + sizeof(std::uint16_t);

// Files below this many blocks (128 MiB of 128 KiB blocks) need no index: their length words are
// added up anew, from at most one metadata block.
constexpr std::uint64_t kIndexStride = 1024;
constexpr std::uint64_t kMaxIndexEntries = 8192;
constexpr std::size_t kMaxIndexes = 16;
constexpr std::size_t kWordsAtOnce = 256;

struct TypeBits {
  std::uint32_t mode;
  bool extended;
};

// Type bits of stat(2) for the type of an inode, and whether it is the long form. mode 0: no type.
TypeBits type_bits(InodeType type) noexcept {
  switch (type) {
    case InodeType::kDirectory:
      return {S_IFDIR, false};
    case InodeType::kFile:
      return {S_IFREG, false};
    case InodeType::kSymlink:
      return {S_IFLNK, false};
    case InodeType::kBlockDevice:
      return {S_IFBLK, false};
    case InodeType::kCharDevice:
      return {S_IFCHR, false};
    case InodeType::kFifo:
      return {S_IFIFO, false};
    case InodeType::kSocket:
      return {S_IFSOCK, false};
    case InodeType::kLongDirectory:
      return {S_IFDIR, true};
    case InodeType::kLongFile:
      return {S_IFREG, true};
    case InodeType::kLongSymlink:
      return {S_IFLNK, true};
    case InodeType::kLongBlockDevice:
      return {S_IFBLK, true};
    case InodeType::kLongCharDevice:
      return {S_IFCHR, true};
    case InodeType::kLongFifo:
      return {S_IFIFO, true};
    case InodeType::kLongSocket:
      return {S_IFSOCK, true};
  }
  return {0, false};
}

constexpr std::array<std::string_view, 3> kXattrPrefixes = {"user.", "trusted.", "security."};
constexpr std::uint16_t kTrustedPrefix = 1;

bool usable_name(std::string_view name) noexcept {
  return name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos &&
         name != "." && name != "..";
}

}  // namespace

// --- metadata ------------------------------------------------------------------------------------

Read<BlockCache::Decoded> Reader::decode_metadata(const BlockKey& key,
                                                  std::span<std::byte> slot) noexcept {
  const Extent& extent = image_.extent();
  std::uint16_t word = 0;
  POSTERN_TRY_ASSIGN(const auto head,
                     extent.fetch(key.position, sizeof word, metadata_window_, kMetadataRead));
  std::memcpy(&word, head.data(), sizeof word);
  const std::size_t length = word & static_cast<std::uint16_t>(~kMetadataStored);
  if (length == 0 || length > kMetadataBytes) {
    return Errno{EIO};
  }
  POSTERN_TRY_ASSIGN(const auto packed, extent.fetch(key.position + sizeof word, length,
                                                     metadata_window_, kMetadataRead));
  std::size_t size = length;
  if ((word & kMetadataStored) != 0) {
    std::memcpy(slot.data(), packed.data(), length);
  } else {
    POSTERN_TRY_ASSIGN(size, decompressor_.decode(packed, slot));
  }
  if (size == 0) {  // a run of empty blocks would be a loop with no end in sight
    return Errno{EIO};
  }
  return BlockCache::Decoded{size, static_cast<std::uint32_t>(sizeof word + length)};
}

Read<BlockCache::Decoded> Reader::decode(const BlockKey& key, std::span<std::byte> slot) noexcept {
  if (key.word == 0) {
    return decode_metadata(key, slot);
  }
  const std::size_t length = key.word & (kDataStored - 1);
  if (length > image_.super().block_size || (key.word & ~(kDataStored | (kDataStored - 1))) != 0) {
    return Errno{EIO};
  }
  if ((key.word & kDataStored) != 0) {
    POSTERN_TRY(image_.extent().fetch_into(key.position, slot.first(length), window_));
    return BlockCache::Decoded{length, 0};
  }
  POSTERN_TRY_ASSIGN(const auto packed, image_.extent().fetch(key.position, length, window_));
  POSTERN_TRY_ASSIGN(const std::size_t size, decompressor_.decode(packed, slot));
  return BlockCache::Decoded{size, 0};
}

Read<const BlockCache::Pin*> Reader::metadata_block(std::uint64_t position) noexcept {
  for (const Held& held : held_) {
    if (held.position == position && held.pin.held()) {
      return &held.pin;
    }
  }
  if (position >= image_.super().bytes_used) {
    return Errno{EIO};
  }
  Held& held = held_[next_held_];
  next_held_ = (next_held_ + 1) % held_.size();
  held.pin.release();
  POSTERN_TRY_ASSIGN(held.pin, image_.metadata().get({position, 0}, *this));
  held.position = position;
  return &held.pin;
}

Read<> Reader::read_metadata(MetadataCursor& cursor, void* out, std::size_t size) noexcept {
  auto* to = static_cast<std::byte*>(out);
  while (size > 0) {
    POSTERN_TRY_ASSIGN(const BlockCache::Pin* pin, metadata_block(cursor.block));
    const auto bytes = pin->bytes();
    if (cursor.offset > bytes.size()) {
      return Errno{EIO};
    }
    const std::size_t take = std::min(size, bytes.size() - cursor.offset);
    std::memcpy(to, bytes.data() + cursor.offset, take);
    to += take;
    size -= take;
    cursor.offset += static_cast<std::uint32_t>(take);
    if (cursor.offset == bytes.size()) {
      cursor.block += pin->note();
      cursor.offset = 0;
    }
  }
  return Ok{};
}

Read<> Reader::skip_metadata(MetadataCursor& cursor, std::uint64_t size) noexcept {
  while (size > 0) {
    POSTERN_TRY_ASSIGN(const BlockCache::Pin* pin, metadata_block(cursor.block));
    const std::size_t length = pin->bytes().size();
    if (cursor.offset > length) {
      return Errno{EIO};
    }
    const std::uint64_t take = std::min<std::uint64_t>(size, length - cursor.offset);
    size -= take;
    cursor.offset += static_cast<std::uint32_t>(take);
    if (cursor.offset == length) {
      cursor.block += pin->note();
      cursor.offset = 0;
    }
  }
  return Ok{};
}

Read<> Reader::table_entry(const Table& table, std::uint64_t index, void* out) noexcept {
  if (index >= table.count) {
    return Errno{EIO};
  }
  const std::uint64_t per_block = kMetadataBytes / table.entry_bytes;
  MetadataCursor cursor{table.blocks[index / per_block],
                        static_cast<std::uint32_t>(index % per_block * table.entry_bytes)};
  return read_metadata(cursor, out, table.entry_bytes);
}

Read<std::uint32_t> Reader::id(std::uint16_t index) noexcept {
  std::uint32_t value = 0;
  POSTERN_TRY(table_entry(image_.ids(), index, &value));
  return value;
}

// --- inodes --------------------------------------------------------------------------------------

Read<Inode> Reader::inode(InodeId id) noexcept {
  MetadataCursor cursor{image_.super().inode_table + (id >> 16),
                        static_cast<std::uint32_t>(id & 0xffff)};
  InodeHead head;
  POSTERN_TRY(read_metadata(cursor, &head, sizeof head));
  const auto type = static_cast<InodeType>(head.type);
  const std::uint32_t bits = type_bits(type).mode;
  if (bits == 0) {
    return Errno{EIO};
  }
  Inode inode;
  inode.id = id;
  inode.mode = bits | (head.mode & 07777U);
  inode.number = head.number;
  inode.mtime = head.mtime;
  inode.uid_index = head.uid_index;
  inode.gid_index = head.gid_index;
  POSTERN_TRY(read_body(inode, type, cursor));
  return inode;
}

Read<> Reader::read_file_body(Inode& inode, bool extended, MetadataCursor& cursor) noexcept {
  if (extended) {
    LongFileBody body;
    POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
    inode.start = body.start;
    inode.size = body.size;
    inode.sparse = body.sparse;
    inode.links = body.links;
    inode.fragment = body.fragment;
    inode.fragment_offset = body.fragment_offset;
    inode.xattr = body.xattr;
  } else {
    FileBody body;
    POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
    inode.start = body.start;
    inode.size = body.size;
    inode.fragment = body.fragment;
    inode.fragment_offset = body.fragment_offset;
  }
  if (inode.size > static_cast<std::uint64_t>(INT64_MAX)) {
    return Errno{EIO};
  }
  return Ok{};
}

Read<> Reader::read_directory_body(Inode& inode, bool extended, MetadataCursor& cursor) noexcept {
  if (extended) {
    LongDirectoryBody body;
    POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
    inode.links = body.links;
    inode.size = body.size;
    inode.listing = body.start;
    inode.listing_offset = body.offset;
    inode.index_count = body.index_count;
    inode.parent = body.parent;
    inode.xattr = body.xattr;
  } else {
    DirectoryBody body;
    POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
    inode.links = body.links;
    inode.size = body.size;
    inode.listing = body.start;
    inode.listing_offset = body.offset;
    inode.parent = body.parent;
  }
  return Ok{};
}

Read<> Reader::read_body(Inode& inode, InodeType type, MetadataCursor& cursor) noexcept {
  const bool extended = type_bits(type).extended;
  switch (inode.mode & S_IFMT) {
    case S_IFREG:
      POSTERN_TRY(read_file_body(inode, extended, cursor));
      break;
    case S_IFDIR:
      POSTERN_TRY(read_directory_body(inode, extended, cursor));
      break;
    case S_IFLNK: {
      SymlinkBody body;
      POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
      if (body.size == 0 || body.size > kMaxLinkBytes) {
        return Errno{EIO};
      }
      inode.links = body.links;
      inode.size = body.size;
      if (extended) {
        MetadataCursor behind = cursor;
        POSTERN_TRY(skip_metadata(behind, body.size));
        POSTERN_TRY(read_metadata(behind, &inode.xattr, sizeof inode.xattr));
      }
      break;
    }
    case S_IFBLK:
    case S_IFCHR: {
      DeviceBody body;
      POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
      inode.links = body.links;
      inode.device = body.device;
      if (extended) {
        POSTERN_TRY(read_metadata(cursor, &inode.xattr, sizeof inode.xattr));
      }
      break;
    }
    default: {  // S_IFIFO, S_IFSOCK
      IpcBody body;
      POSTERN_TRY(read_metadata(cursor, &body, sizeof body));
      inode.links = body.links;
      if (extended) {
        POSTERN_TRY(read_metadata(cursor, &inode.xattr, sizeof inode.xattr));
      }
      break;
    }
  }
  inode.next = cursor;
  return Ok{};
}

Read<std::string> Reader::link_text(const Inode& inode) noexcept {
  if (!S_ISLNK(inode.mode)) {
    return Errno{EINVAL};
  }
  std::string text(inode.size, '\0');
  MetadataCursor cursor = inode.next;
  POSTERN_TRY(read_metadata(cursor, text.data(), text.size()));
  return text;
}

// --- directories ---------------------------------------------------------------------------------

// Moves `cursor`, at the start of the listing, to the last index entry that is not behind `name`
// (or, where that is empty, `position`).
Read<> Reader::seek_by_index(const Inode& directory,
                             ListingCursor& cursor,
                             std::string_view name,
                             std::uint32_t position) noexcept {
  MetadataCursor index = directory.next;
  for (std::uint16_t i = 0; i < directory.index_count; ++i) {
    DirectoryIndex entry;
    POSTERN_TRY(read_metadata(index, &entry, sizeof entry));
    std::array<char, kMaxNameBytes + 1> first;
    if (entry.name_size >= first.size()) {
      return Errno{EIO};
    }
    const std::size_t length = entry.name_size + 1U;
    POSTERN_TRY(read_metadata(index, first.data(), length));
    const bool behind =
        name.empty() ? entry.position > position : std::string_view(first.data(), length) > name;
    if (behind) {
      break;
    }
    if (entry.position > cursor.end) {
      return Errno{EIO};
    }
    cursor.position = entry.position;
    cursor.at = {image_.super().directory_table + entry.start,
                 static_cast<std::uint32_t>(
                     (std::uint64_t{directory.listing_offset} + entry.position) % kMetadataBytes)};
  }
  return Ok{};
}

Read<ListingCursor> Reader::open_listing(const Inode& directory, std::uint32_t position) noexcept {
  if (!S_ISDIR(directory.mode)) {
    return Errno{ENOTDIR};
  }
  if (position != 0 && directory.id == listing_inode_ && position == listing_.position) {
    return listing_;
  }
  ListingCursor cursor;
  cursor.at = {image_.super().directory_table + directory.listing, directory.listing_offset};
  // The size counts three bytes for "." and "..".
  cursor.end = directory.size > 3 ? static_cast<std::uint32_t>(directory.size - 3) : 0;
  if (position == 0) {
    return cursor;
  }
  POSTERN_TRY(seek_by_index(directory, cursor, {}, position));
  Entry entry;
  while (cursor.position < position) {
    POSTERN_TRY_ASSIGN(const bool more, next_entry(cursor, entry));
    if (!more) {
      break;
    }
  }
  return cursor;
}

void Reader::remember(const Inode& directory, const ListingCursor& cursor) noexcept {
  listing_inode_ = directory.id;
  listing_ = cursor;
}

Read<bool> Reader::next_entry(ListingCursor& cursor, Entry& entry) noexcept {
  if (cursor.remaining == 0) {
    if (cursor.position >= cursor.end) {
      return false;
    }
    DirectoryHeader header;
    POSTERN_TRY(read_metadata(cursor.at, &header, sizeof header));
    if (header.count >= kMaxEntriesOfHeader) {
      return Errno{EIO};
    }
    cursor.position += static_cast<std::uint32_t>(sizeof header);
    cursor.remaining = header.count + 1;
    cursor.start = header.start;
    cursor.number = header.number;
  }
  DirectoryEntry raw;
  POSTERN_TRY(read_metadata(cursor.at, &raw, sizeof raw));
  const std::size_t length = raw.name_size + std::size_t{1};
  const std::uint64_t behind = std::uint64_t{cursor.position} + sizeof raw + length;
  if (length > kMaxNameBytes || behind > cursor.end) {
    return Errno{EIO};
  }
  POSTERN_TRY(read_metadata(cursor.at, entry.name_bytes.data(), length));
  entry.name_size = length;
  cursor.position = static_cast<std::uint32_t>(behind);
  --cursor.remaining;
  entry.inode = (std::uint64_t{cursor.start} << 16) | raw.offset;
  entry.number = cursor.number + static_cast<std::uint32_t>(raw.number);
  entry.mode = type_bits(static_cast<InodeType>(raw.type)).mode;
  entry.next = cursor.position;
  if (entry.mode == 0 || !usable_name(entry.name())) {
    return Errno{EIO};
  }
  return true;
}

Read<bool> Reader::find_entry(const Inode& directory,
                              std::string_view name,
                              Entry& entry) noexcept {
  POSTERN_TRY_ASSIGN(ListingCursor cursor, open_listing(directory, 0));
  POSTERN_TRY(seek_by_index(directory, cursor, name, 0));
  for (;;) {
    POSTERN_TRY_ASSIGN(const bool more, next_entry(cursor, entry));
    // A listing is sorted, by bytes. Like the kernel we rely on that for the first byte alone.
    if (!more || static_cast<unsigned char>(entry.name_bytes[0]) >
                     static_cast<unsigned char>(name.front())) {
      return false;
    }
    if (entry.name() == name) {
      return true;
    }
  }
}

// --- attributes ----------------------------------------------------------------------------------

// Calls visit(name, value): `value` is a cursor at the value's size. It returns whether to go on.
template <class Visit>
Read<> Reader::each_xattr(const Inode& inode, Visit visit) noexcept {
  if (inode.xattr == kNoXattr || image_.xattrs().count == 0) {
    return Ok{};
  }
  XattrId id;
  POSTERN_TRY(table_entry(image_.xattrs(), inode.xattr, &id));
  if (id.count > kMaxXattrBytes) {
    return Errno{EIO};
  }
  MetadataCursor cursor{image_.xattr_values() + (id.reference >> 16),
                        static_cast<std::uint32_t>(id.reference & 0xffff)};
  for (std::uint32_t i = 0; i < id.count; ++i) {
    XattrEntry entry;
    POSTERN_TRY(read_metadata(cursor, &entry, sizeof entry));
    const std::uint16_t prefix = entry.type & kXattrPrefixMask;
    if (prefix >= kXattrPrefixes.size() || entry.name_size > kMaxNameBytes) {
      return Errno{EIO};
    }
    std::string name(kXattrPrefixes[prefix]);
    const std::size_t prefix_size = name.size();
    name.resize(prefix_size + entry.name_size);
    POSTERN_TRY(read_metadata(cursor, name.data() + prefix_size, entry.name_size));
    MetadataCursor value = cursor;
    std::uint32_t size = 0;
    POSTERN_TRY(read_metadata(cursor, &size, sizeof size));
    if ((entry.type & kXattrOutOfLine) != 0) {
      std::uint64_t reference = 0;
      if (size != sizeof reference) {
        return Errno{EIO};
      }
      POSTERN_TRY(read_metadata(cursor, &reference, sizeof reference));
      value = {image_.xattr_values() + (reference >> 16),
               static_cast<std::uint32_t>(reference & 0xffff)};
    } else {
      if (size > kMaxXattrBytes) {
        return Errno{EIO};
      }
      POSTERN_TRY(skip_metadata(cursor, size));
    }
    if (prefix == kTrustedPrefix) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const bool more, visit(name, value));
    if (!more) {
      break;
    }
  }
  return Ok{};
}

Read<std::string> Reader::xattr(const Inode& inode, std::string_view name) noexcept {
  std::string found;
  bool seen = false;
  const auto take = [&](const std::string& has, MetadataCursor value) -> Read<bool> {
    if (has != name) {
      return true;
    }
    std::uint32_t size = 0;
    POSTERN_TRY(read_metadata(value, &size, sizeof size));
    if (size > kMaxXattrBytes) {
      return Errno{EIO};
    }
    found.resize(size);
    POSTERN_TRY(read_metadata(value, found.data(), size));
    seen = true;
    return false;
  };
  POSTERN_TRY(each_xattr(inode, take));
  if (!seen) {
    return Errno{ENODATA};
  }
  return found;
}

Read<std::string> Reader::xattr_names(const Inode& inode) noexcept {
  std::string names;
  POSTERN_TRY(each_xattr(inode, [&](const std::string& has, MetadataCursor) -> Read<bool> {
    if (names.size() + has.size() + 1 > kMaxXattrBytes) {
      return Errno{E2BIG};
    }
    names += has;
    names += '\0';
    return true;
  }));
  return names;
}

// --- data ----------------------------------------------------------------------------------------

std::uint64_t Reader::full_blocks(const Inode& file) const noexcept {
  const std::uint64_t size = image_.super().block_size;
  return file.size / size + (file.fragment == kNoFragment && file.size % size != 0 ? 1 : 0);
}

// Moves on by `blocks` length words.
Read<> Reader::advance(Image::BlockIndex::Entry& at, std::uint64_t blocks) noexcept {
  std::array<std::uint32_t, kWordsAtOnce> words;
  while (blocks > 0) {
    const std::size_t count =
        static_cast<std::size_t>(std::min<std::uint64_t>(blocks, words.size()));
    POSTERN_TRY(read_metadata(at.words, words.data(), count * sizeof(std::uint32_t)));
    for (std::size_t i = 0; i < count; ++i) {
      at.data += words[i] & (kDataStored - 1);
    }
    blocks -= count;
  }
  return Ok{};
}

Read<Image::BlockIndex::Entry> Reader::locate(const Inode& file, std::uint64_t block) noexcept {
  Image::BlockIndex::Entry at{file.next, file.start};
  if (block < kIndexStride) {
    POSTERN_TRY(advance(at, block));
    return at;
  }
  const std::uint64_t stride = std::max(kIndexStride, full_blocks(file) / kMaxIndexEntries + 1);
  const auto index_of = [&]() -> Image::BlockIndex& {  // under index_mutex
    auto& all = image_.indexes;
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const auto& i) { return i.inode == file.id; });
    if (found != all.end()) {
      return *found;
    }
    if (all.size() >= kMaxIndexes) {
      all.erase(all.begin());
    }
    return all.emplace_back(Image::BlockIndex{file.id, stride, {{file.next, file.start}}});
  };
  std::uint64_t entry = 0;
  {
    const std::lock_guard lock(image_.index_mutex);
    const auto& entries = index_of().entries;
    entry = std::min<std::uint64_t>(block / stride, entries.size() - 1);
    at = entries[entry];
  }
  while (entry < block / stride) {
    POSTERN_TRY(advance(at, stride));
    ++entry;
    const std::lock_guard lock(image_.index_mutex);
    auto& entries = index_of().entries;
    if (entries.size() == entry) {
      entries.push_back(at);
    }
  }
  POSTERN_TRY(advance(at, block - entry * stride));
  return at;
}

Read<DataBlock> Reader::fragment(std::uint32_t index) noexcept {
  FragmentEntry entry;
  POSTERN_TRY(table_entry(image_.fragments(), index, &entry));
  if (entry.size == 0) {  // would read as a hole
    return Errno{EIO};
  }
  return DataBlock{{entry.start, entry.size}, 0, 0};
}

Read<> Reader::blocks(const Inode& file,
                      std::uint64_t first,
                      std::size_t count,
                      std::vector<DataBlock>& out) noexcept {
  const std::uint64_t block_size = image_.super().block_size;
  const std::uint64_t full = full_blocks(file);
  if (first < full) {
    POSTERN_TRY_ASSIGN(Image::BlockIndex::Entry at, locate(file, first));
    for (std::uint64_t i = first; i < full && count > 0; ++i, --count) {
      std::uint32_t word = 0;
      POSTERN_TRY(read_metadata(at.words, &word, sizeof word));
      const auto length =
          static_cast<std::uint32_t>(std::min(block_size, file.size - i * block_size));
      out.push_back({{at.data, word}, 0, length});
      at.data += word & (kDataStored - 1);
    }
  }
  if (count > 0 && file.fragment != kNoFragment && file.size % block_size != 0 && first <= full) {
    POSTERN_TRY_ASSIGN(DataBlock end, fragment(file.fragment));
    end.offset = file.fragment_offset;
    end.length = static_cast<std::uint32_t>(file.size % block_size);
    out.push_back(end);
  }
  return Ok{};
}

Read<BlockCache::Pin> Reader::data(const DataBlock& block) noexcept {
  POSTERN_TRY_ASSIGN(BlockCache::Pin pin, image_.data().get(block.key, *this));
  if (pin.bytes().size() < std::size_t{block.offset} + block.length) {
    return Errno{EIO};
  }
  return pin;
}

}  // namespace postern::squashfs
