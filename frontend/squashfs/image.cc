#include "frontend/squashfs/image.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

namespace postern::squashfs {
namespace {

// More positions than a 4 TiB image of small files has. What a hostile count can make us allocate.
constexpr std::size_t kMaxTableBytes = 8 << 20;
// Eight threads that each hold a 1 MiB request of two blocks still find a slot.
constexpr std::size_t kMinDataSlots = 16;
constexpr std::size_t kMinMetadataSlots = 64;

Problem corrupt(std::string what) {
  return Problem{.what = std::move(what),
                 .cure = "the image is damaged or not squashfs: copy or build it again"};
}

Outcome<SuperBlock> read_super(const Extent& extent, Window& window) {
  if (extent.size() < sizeof(SuperBlock)) {
    return corrupt("squashfs image of " + std::to_string(extent.size()) +
                   " bytes is shorter than a superblock");
  }
  const auto bytes = extent.fetch(0, sizeof(SuperBlock), window);
  if (!bytes) {
    return system_problem("reading the squashfs superblock", bytes.error().number,
                          "the image is damaged, or was changed after it was sealed");
  }
  SuperBlock super;
  std::memcpy(&super, bytes->data(), sizeof super);
  return super;
}

Outcome<> check_super(const SuperBlock& super, const Extent& extent) {
  if (super.magic != kMagic) {
    return corrupt("the image has no squashfs superblock");
  }
  if (super.major != 4 || super.minor != 0) {
    return Problem{.what = "squashfs version " + std::to_string(super.major) + "." +
                           std::to_string(super.minor) + " is not 4.0",
                   .cure = "rebuild the image with a current mksquashfs"};
  }
  const auto method = static_cast<Compression>(super.compression);
  if (!can_decode(method)) {
    return Problem{.what = "squashfs compression " + std::to_string(super.compression) + " (" +
                           name_of(method) + ") is not supported",
                   .cure = "rebuild the image with gzip, lz4, lzo, xz or zstd"};
  }
  if (super.block_size < kMinBlockBytes || super.block_size > kMaxBlockBytes ||
      super.block_log > 20 || super.block_size != 1U << super.block_log) {
    return corrupt("squashfs block size " + std::to_string(super.block_size) + " is not valid");
  }
  if (super.bytes_used > extent.size()) {
    return corrupt("the squashfs image says it has " + std::to_string(super.bytes_used) +
                   " bytes, but " + std::to_string(extent.size()) + " are there");
  }
  if (super.inode_table >= super.bytes_used || super.directory_table >= super.bytes_used ||
      super.inode_table > super.directory_table) {
    return corrupt("a squashfs table lies outside the image");
  }
  return Ok{};
}

Outcome<> load_table(const char* name,
                     const Extent& extent,
                     const SuperBlock& super,
                     std::uint64_t start,
                     Table& table,
                     Window& window) {
  const std::uint64_t per_block = kMetadataBytes / table.entry_bytes;
  const std::uint64_t bytes = (table.count + per_block - 1) / per_block * sizeof(std::uint64_t);
  if (bytes == 0) {
    return Ok{};
  }
  if (bytes > kMaxTableBytes || start > super.bytes_used || bytes > super.bytes_used - start) {
    return corrupt(std::string("the squashfs ") + name + " table lies outside the image");
  }
  const auto raw = extent.fetch(start, bytes, window);
  if (!raw) {
    return system_problem(std::string("reading the squashfs ") + name + " table",
                          raw.error().number);
  }
  table.blocks.resize(bytes / sizeof(std::uint64_t));
  std::memcpy(table.blocks.data(), raw->data(), bytes);
  return Ok{};
}

}  // namespace

Image::Image(const Extent& extent, const SuperBlock& super, CacheBytes cache) noexcept
    : extent_(extent),
      super_(super),
      data_(super.block_size, std::max(kMinDataSlots, cache.data / super.block_size)),
      metadata_(kMetadataBytes, std::max(kMinMetadataSlots, cache.metadata / kMetadataBytes)) {}

Outcome<std::unique_ptr<Image>> Image::open(const Extent& extent, CacheBytes cache) noexcept {
  Window window;
  POSTERN_TRY_ASSIGN(const SuperBlock super, read_super(extent, window));
  POSTERN_TRY(check_super(super, extent));
  std::unique_ptr<Image> image(new (std::nothrow) Image(extent, super, cache));
  if (image == nullptr || !image->data_.valid() || !image->metadata_.valid()) {
    return system_problem("reserving memory for the image's blocks", ENOMEM);
  }
  image->ids_ = {.entry_bytes = sizeof(std::uint32_t), .count = super.ids};
  POSTERN_TRY(load_table("id", extent, super, super.id_table, image->ids_, window));
  image->fragments_ = {.entry_bytes = sizeof(FragmentEntry), .count = super.fragments};
  POSTERN_TRY(
      load_table("fragment", extent, super, super.fragment_table, image->fragments_, window));
  if (super.xattr_id_table != kNoTable) {
    if (super.xattr_id_table > super.bytes_used ||
        super.bytes_used - super.xattr_id_table < sizeof(XattrTable)) {
      return corrupt("the squashfs attribute table lies outside the image");
    }
    const auto raw = extent.fetch(super.xattr_id_table, sizeof(XattrTable), window);
    if (!raw) {
      return system_problem("reading the squashfs attribute table", raw.error().number);
    }
    XattrTable head;
    std::memcpy(&head, raw->data(), sizeof head);
    if (head.values > super.bytes_used) {
      return corrupt("the squashfs attributes lie outside the image");
    }
    image->xattr_values_ = head.values;
    image->xattrs_ = {.entry_bytes = sizeof(XattrId), .count = head.ids};
    POSTERN_TRY(load_table("attribute", extent, super, super.xattr_id_table + sizeof head,
                           image->xattrs_, window));
  }
  return image;
}

}  // namespace postern::squashfs
