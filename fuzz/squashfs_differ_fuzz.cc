// Our reader and libsquashfuse on one image: what both read is the same: attributes, names, links,
// extended attributes, and every byte of every file. Where one of them finds the image damaged, the
// other need not; on the images of the corpus, which are whole, both read all (names that end in
// ".whole").
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>

#include <unistd.h>

extern "C" {
#include <squashfuse/squashfuse.h>  // its headers are C alone
}

#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/image.h"
#include "frontend/squashfs/path_reader.h"
#include "fuzz/target.h"
#include "protocol/base/unique_fd.h"

namespace {

using postern::squashfs::Entry;
using postern::squashfs::Image;
using postern::squashfs::Inode;
using postern::squashfs::InodeId;
using postern::squashfs::PathReader;

constexpr std::size_t kMaxInodes = 200;
constexpr std::uint64_t kMaxBytes = 4 << 20;

[[noreturn]] void differ(const char* what, InodeId id) {
  std::fprintf(stderr, "the readers differ: %s of inode %llx\n", what,
               static_cast<unsigned long long>(id));
  __builtin_trap();
}

class Comparison {
 public:
  Comparison(Image& image, sqfs& other) : image_(image), paths_(image), other_(other) {}

  void run() {
    const InodeId root = paths_.reader().root();
    if (root != sqfs_inode_root(&other_)) {
      differ("the root", root);
    }
    found_.push_back(root);
    for (std::size_t i = 0; i < found_.size() && i < kMaxInodes; ++i) {
      compare(found_[i]);
    }
  }

 private:
  void compare(InodeId id) {
    const auto ours = paths_.reader().inode(id);
    sqfs_inode theirs{};
    if (!ours || sqfs_inode_get(&other_, &theirs, id) != SQFS_OK) {
      return;
    }
    compare_attributes(*ours, theirs);
    if (S_ISDIR(ours->mode)) {
      compare_listing(*ours, theirs);
    } else if (S_ISREG(ours->mode)) {
      compare_bytes(*ours, theirs);
    } else if (S_ISLNK(ours->mode)) {
      compare_link(*ours, theirs);
    }
  }

  void compare_attributes(const Inode& ours, sqfs_inode& theirs) {
    if (ours.mode != theirs.base.mode || ours.number != theirs.base.inode_number ||
        ours.mtime != theirs.base.mtime) {
      differ("mode, number or time", ours.id);
    }
    sqfs_id_t uid = 0;
    const auto id = paths_.reader().id(ours.uid_index);
    if (id && sqfs_id_get(&other_, theirs.base.uid, &uid) == SQFS_OK && *id != uid) {
      differ("the owner", ours.id);
    }
    if (S_ISREG(ours.mode) && ours.size != theirs.xtra.reg.file_size) {
      differ("the size", ours.id);
    }
  }

  void compare_link(const Inode& ours, sqfs_inode& theirs) {
    std::vector<char> text(65537);
    std::size_t size = text.size();
    const auto link = paths_.reader().link_text(ours);
    if (link && link->size() < text.size() - 1 &&
        sqfs_readlink(&other_, &theirs, text.data(), &size) == SQFS_OK && *link != text.data()) {
      differ("the link", ours.id);
    }
  }

  void compare_bytes(const Inode& ours, sqfs_inode& theirs) {
    if (ours.size > kMaxBytes) {
      return;
    }
    const auto bytes = paths_.bytes(ours, kMaxBytes);
    if (!bytes) {
      return;
    }
    std::vector<char> read(ours.size);
    for (std::size_t at = 0; at < read.size();) {
      auto size = static_cast<sqfs_off_t>(read.size() - at);
      if (sqfs_read_range(&other_, &theirs, static_cast<sqfs_off_t>(at), &size, read.data() + at) !=
              SQFS_OK ||
          size <= 0) {
        return;
      }
      at += static_cast<std::size_t>(size);
    }
    if (std::string_view(read.data(), read.size()) != *bytes) {
      differ("the bytes", ours.id);
    }
  }

  void compare_listing(const Inode& ours, sqfs_inode& theirs) {
    auto cursor = paths_.reader().open_listing(ours, 0);
    sqfs_dir listing{};
    if (!cursor || sqfs_dir_open(&other_, &theirs, &listing, 0) != SQFS_OK) {
      return;
    }
    sqfs_name name{};
    sqfs_dir_entry other{};
    sqfs_dentry_init(&other, name);
    Entry entry;
    while (found_.size() < kMaxInodes) {
      const auto more = paths_.reader().next_entry(*cursor, entry);
      sqfs_err error = SQFS_OK;
      const bool other_more = sqfs_dir_next(&other_, &listing, &other, &error);
      if (!more || error != SQFS_OK) {
        return;
      }
      if (*more != other_more) {
        differ("the number of names", ours.id);
      }
      if (!*more) {
        return;
      }
      if (entry.name() !=
              std::string_view(sqfs_dentry_name(&other), sqfs_dentry_name_size(&other)) ||
          entry.inode != sqfs_dentry_inode(&other)) {
        differ("a name", ours.id);
      }
      found_.push_back(entry.inode);
    }
  }

  Image& image_;
  PathReader paths_;
  sqfs& other_;
  std::vector<InodeId> found_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const postern::UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
  if (!file.valid() || ::write(file.get(), data, size) != static_cast<ssize_t>(size)) {
    return 0;
  }
  const postern::squashfs::Extent extent(file.get(), 0, size);
  const auto image = Image::open(extent, {.data = 1 << 20, .metadata = 1 << 19});
  sqfs other{};
  if (!image || sqfs_init(&other, file.get(), 0) != SQFS_OK) {
    return 0;
  }
  Comparison(**image, other).run();
  sqfs_destroy(&other);
  return 0;
}
