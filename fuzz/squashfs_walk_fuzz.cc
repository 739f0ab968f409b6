// Walks a whole image as the FUSE server would on a kernel's behalf: every listing, inode, link,
// attribute and block. What it must not do is crash, hang, or return bytes outside a block.
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>

#include <unistd.h>

#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/image.h"
#include "frontend/squashfs/reader.h"
#include "fuzz/target.h"
#include "protocol/base/unique_fd.h"

namespace {

using postern::squashfs::DataBlock;
using postern::squashfs::Entry;
using postern::squashfs::Inode;
using postern::squashfs::InodeId;
using postern::squashfs::Reader;

// A hostile image may loop; the kernel would not follow it, and neither do we.
constexpr int kMaxInodes = 300;
constexpr std::size_t kMaxBlocks = 4;

void read_data(Reader& reader, const Inode& file) {
  const std::uint64_t block_size = reader.image().super().block_size;
  std::vector<DataBlock> blocks;
  for (const std::uint64_t first : {std::uint64_t{0}, file.size / block_size}) {
    static_cast<void>(reader.blocks(file, first, kMaxBlocks, blocks));
  }
  for (const DataBlock& block : blocks) {
    if (block.hole()) {
      continue;
    }
    const auto pin = reader.data(block);
    if (pin && pin->bytes().size() < std::size_t{block.offset} + block.length) {
      __builtin_trap();
    }
  }
}

void read_attributes(Reader& reader, const Inode& inode) {
  const auto names = reader.xattr_names(inode);
  if (!names) {
    return;
  }
  for (std::string_view rest = *names; !rest.empty();) {
    const std::string_view name = rest.substr(0, rest.find('\0'));
    static_cast<void>(reader.xattr(inode, name));
    rest.remove_prefix(name.size() + 1);
  }
}

void list(Reader& reader, const Inode& directory, std::vector<InodeId>& found) {
  auto cursor = reader.open_listing(directory, 0);
  Entry entry;
  Entry again;
  std::uint32_t middle = 0;
  while (cursor && found.size() < kMaxInodes) {
    const auto more = reader.next_entry(*cursor, entry);
    if (!more || !*more) {
      break;
    }
    found.push_back(entry.inode);
    static_cast<void>(reader.find_entry(directory, entry.name(), again));
    middle = found.size() % 7 == 3 ? entry.next : middle;
  }
  static_cast<void>(reader.open_listing(directory, middle));
}

void walk(postern::squashfs::Image& image) {
  Reader reader(image);
  std::vector<InodeId> found = {reader.root()};
  for (std::size_t i = 0; i < found.size() && i < kMaxInodes; ++i) {
    const auto inode = reader.inode(found[i]);
    if (!inode) {
      continue;
    }
    static_cast<void>(reader.id(inode->uid_index));
    read_attributes(reader, *inode);
    if (S_ISDIR(inode->mode)) {
      list(reader, *inode, found);
    } else if (S_ISREG(inode->mode)) {
      read_data(reader, *inode);
    } else if (S_ISLNK(inode->mode)) {
      static_cast<void>(reader.link_text(*inode));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const postern::UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
  if (!file.valid() || ::write(file.get(), data, size) != static_cast<ssize_t>(size)) {
    return 0;
  }
  const postern::squashfs::Extent extent(file.get(), 0, size);
  const auto image = postern::squashfs::Image::open(extent, {.data = 1 << 20, .metadata = 1 << 19});
  if (image) {
    walk(**image);
  }
  return 0;
}
