#include "frontend/imagebuild/squash_source.h"

#include <algorithm>
#include <cerrno>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/progress.h"
#include "frontend/squashfs/reader.h"

namespace postern::imagebuild {
namespace {

constexpr squashfs::Image::CacheBytes kCache = {.data = 16 << 20, .metadata = 4 << 20};
constexpr std::size_t kBlocksAtATime = 64;

class SquashSource : public Source {
 public:
  SquashSource(int fd, std::uint64_t offset, std::uint64_t size, std::string name)
      : extent_(fd, offset, size), name_(std::move(name)) {}

  Outcome<> open();
  Outcome<Tree> index() override;
  Outcome<> stream(Tree& tree, ContentSink& sink, message::Progress& progress) override;

  [[nodiscard]] std::uint64_t bytes() const override { return bytes_; }

  Outcome<std::string> head(const Tree& tree, InodeId file, std::size_t most) override;

 private:
  struct Pending {
    squashfs::InodeId there;
    InodeId here;
    std::size_t depth;
  };

  // Where a file's data lies, for reading it in order.
  struct File {
    std::uint64_t start;
    std::uint32_t fragment;
    std::uint32_t fragment_offset;
    InodeId id;

    friend bool operator<(const File& a, const File& b) {
      return std::tie(a.start, a.fragment, a.fragment_offset, a.id) <
             std::tie(b.start, b.fragment, b.fragment_offset, b.id);
    }
  };

  Problem damaged(int number) const {
    return number == ENOMEM ? system_problem("reading " + name_, ENOMEM)
                            : Problem{.what = "the file system in " + name_ + " is damaged",
                                      .cure = "copy or download the image again"};
  }

  Outcome<Inode> convert(const squashfs::Inode& from);
  Outcome<> read_attributes(const squashfs::Inode& from, Inode& to);
  Outcome<> read_directory(Tree& tree, const Pending& pending, std::vector<Pending>& todo);
  Outcome<> read_entry(Tree& tree,
                       const squashfs::Entry& entry,
                       const Pending& pending,
                       std::vector<Pending>& todo);
  template <class Take>
  Outcome<> each_piece(const squashfs::Inode& file, Take take);

  squashfs::Extent extent_;
  std::string name_;
  std::unique_ptr<squashfs::Image> image_;
  std::unique_ptr<squashfs::Reader> reader_;
  std::uint64_t bytes_ = 0;
  std::vector<File> files_;
  std::unordered_map<squashfs::InodeId, InodeId> linked_;
  std::unordered_set<squashfs::InodeId> directories_;
};

Outcome<> SquashSource::open() {
  POSTERN_TRY_ASSIGN(image_, squashfs::Image::open(extent_, kCache));
  reader_ = std::make_unique<squashfs::Reader>(*image_);
  return {};
}

Outcome<> SquashSource::read_attributes(const squashfs::Inode& from, Inode& to) {
  const auto names = reader_->xattr_names(from);
  if (!names) {
    return damaged(names.error().number);
  }
  for (std::size_t start = 0; start < names->size();) {
    const std::string attribute = names->c_str() + start;
    start += attribute.size() + 1;
    auto value = reader_->xattr(from, attribute);
    if (!value) {
      return damaged(value.error().number);
    }
    to.attributes.push_back({attribute, *std::move(value)});
  }
  std::sort(to.attributes.begin(), to.attributes.end(),
            [](const Attribute& a, const Attribute& b) { return a.name < b.name; });
  return {};
}

Outcome<Inode> SquashSource::convert(const squashfs::Inode& from) {
  Inode to;
  const auto uid = reader_->id(from.uid_index);
  const auto gid = reader_->id(from.gid_index);
  if (!uid || !gid) {
    return damaged(EIO);
  }
  to.uid = *uid;
  to.gid = *gid;
  to.mode = static_cast<std::uint16_t>(from.mode & 07777);
  to.mtime = from.mtime;
  to.place.position = from.id;
  switch (from.mode & S_IFMT) {
    case S_IFREG:
      to.kind = Kind::kFile;
      to.size = from.size;
      break;
    case S_IFDIR:
      to.kind = Kind::kDirectory;
      to.children = std::make_unique<Children>();
      break;
    case S_IFLNK: {
      to.kind = Kind::kSymlink;
      auto target = reader_->link_text(from);
      if (!target) {
        return damaged(target.error().number);
      }
      to.target = *std::move(target);
      break;
    }
    case S_IFCHR:
    case S_IFBLK:
      to.kind = S_ISCHR(from.mode) ? Kind::kCharDevice : Kind::kBlockDevice;
      to.major = (from.device >> 8) & 0xfff;  // Linux's new_decode_dev()
      to.minor = (from.device & 0xff) | ((from.device >> 12) & 0xfff00);
      break;
    default:
      to.kind = Kind::kFifo;  // sockets were left out by the caller
      break;
  }
  if (from.xattr != squashfs::kNoXattr) {
    POSTERN_TRY(read_attributes(from, to));
  }
  return to;
}

Outcome<Tree> SquashSource::index() {
  Tree tree;
  const auto root = reader_->inode(reader_->root());
  if (!root || !S_ISDIR(root->mode)) {
    return damaged(root ? EIO : root.error().number);
  }
  POSTERN_TRY_ASSIGN(tree[tree.root()], convert(*root));
  std::vector<Pending> todo{{reader_->root(), tree.root(), 0}};
  while (!todo.empty()) {
    POSTERN_TRY(check_interrupt());
    const Pending pending = todo.back();
    todo.pop_back();
    // A directory that holds itself would never end.
    if (pending.depth > kMaxDepth || !directories_.insert(pending.there).second) {
      return damaged(EIO);
    }
    POSTERN_TRY(read_directory(tree, pending, todo));
  }
  std::sort(files_.begin(), files_.end());
  return tree;
}

Outcome<> SquashSource::read_directory(Tree& tree,
                                       const Pending& pending,
                                       std::vector<Pending>& todo) {
  const auto directory = reader_->inode(pending.there);
  if (!directory) {
    return damaged(directory.error().number);
  }
  auto cursor = reader_->open_listing(*directory, 0);
  if (!cursor) {
    return damaged(cursor.error().number);
  }
  squashfs::Entry entry;
  while (true) {
    const auto more = reader_->next_entry(*cursor, entry);
    if (!more) {
      return damaged(more.error().number);
    }
    if (!*more) {
      return {};
    }
    POSTERN_TRY(read_entry(tree, entry, pending, todo));
  }
}

Outcome<> SquashSource::read_entry(Tree& tree,
                                   const squashfs::Entry& entry,
                                   const Pending& pending,
                                   std::vector<Pending>& todo) {
  const std::string name(entry.name());
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos || tree.child(pending.here, name) != Tree::kNone) {
    return damaged(EIO);
  }
  if (const auto known = linked_.find(entry.inode); known != linked_.end()) {
    tree.enter(pending.here, name, known->second, 0);
    return {};
  }
  const auto from = reader_->inode(entry.inode);
  if (!from) {
    return damaged(from.error().number);
  }
  if (S_ISSOCK(from->mode)) {
    return {};
  }
  POSTERN_TRY_ASSIGN(Inode inode, convert(*from));
  const Kind kind = inode.kind;
  const std::uint64_t size = inode.size;
  POSTERN_TRY_ASSIGN(const InodeId id, tree.add_inode(std::move(inode)));
  tree.enter(pending.here, name, id, 0);
  if (kind == Kind::kDirectory) {
    todo.push_back({entry.inode, id, pending.depth + 1});
    return {};
  }
  linked_.emplace(entry.inode, id);
  if (kind == Kind::kFile && size > 0) {
    files_.push_back({from->start, from->fragment, from->fragment_offset, id});
    bytes_ += size;
  }
  return {};
}

// take(span of bytes, or of none with the length of a hole) -> Outcome<bool>: false ends.
template <class Take>
Outcome<> SquashSource::each_piece(const squashfs::Inode& file, Take take) {
  std::vector<squashfs::DataBlock> blocks;
  for (std::uint64_t first = 0;; first += blocks.size()) {
    blocks.clear();
    if (const auto listed = reader_->blocks(file, first, kBlocksAtATime, blocks); !listed) {
      return damaged(listed.error().number);
    }
    if (blocks.empty()) {
      return {};
    }
    for (const squashfs::DataBlock& block : blocks) {
      POSTERN_TRY(check_interrupt());
      std::span<const std::byte> bytes;
      squashfs::BlockCache::Pin pin;
      if (!block.hole()) {
        auto held = reader_->data(block);
        if (!held) {
          return damaged(held.error().number);
        }
        pin = *std::move(held);
        bytes = pin.bytes().subspan(block.offset, block.length);
      }
      POSTERN_TRY_ASSIGN(const bool more, take(bytes, block.length));
      if (!more) {
        return {};
      }
    }
  }
}

Outcome<> SquashSource::stream(Tree& tree, ContentSink& sink, message::Progress& progress) {
  for (const File& file : files_) {
    const Inode& inode = tree[file.id];
    if (inode.links == 0 || inode.origin != Origin::kSource) {
      progress.advance(inode.size);
      continue;
    }
    const auto from = reader_->inode(inode.place.position);
    if (!from) {
      return damaged(from.error().number);
    }
    POSTERN_TRY(sink.begin(file.id));
    std::uint64_t holes = 0;
    const auto take = [&](std::span<const std::byte> bytes, std::uint32_t length) -> Outcome<bool> {
      progress.advance(length);
      if (!bytes.empty()) {
        POSTERN_TRY(sink.append(bytes));
        return true;
      }
      holes += length;
      if (holes > kMaxHole) {
        return Problem{.what = "a file in " + name_ + " has holes of more than " +
                               message::human_bytes(kMaxHole),
                       .cure = "no image needs such a file: do not trust this one"};
      }
      POSTERN_TRY(sink.hole(length));
      return true;
    };
    POSTERN_TRY(each_piece(*from, take));
    POSTERN_TRY(sink.end());
  }
  return {};
}

Outcome<std::string> SquashSource::head(const Tree& tree, InodeId file, std::size_t most) {
  const Inode& inode = tree[file];
  if (inode.origin == Origin::kLiteral) {
    return inode.captured.substr(0, most);
  }
  const auto from = reader_->inode(inode.place.position);
  if (!from) {
    return damaged(from.error().number);
  }
  std::string text;
  const auto take = [&](std::span<const std::byte> bytes, std::uint32_t length) -> Outcome<bool> {
    const std::size_t count = std::min<std::size_t>(length, most - text.size());
    if (bytes.empty()) {
      text.append(count, '\0');
    } else {
      text.append(reinterpret_cast<const char*>(bytes.data()), count);  // SAFETY: bytes as text
    }
    return text.size() < most;
  };
  POSTERN_TRY(each_piece(*from, take));
  return text;
}

}  // namespace

Outcome<std::unique_ptr<Source>> squash_source(int fd,
                                               std::uint64_t offset,
                                               std::uint64_t size,
                                               std::string name) {
  auto source = std::make_unique<SquashSource>(fd, offset, size, std::move(name));
  POSTERN_TRY(source->open());
  return std::unique_ptr<Source>(std::move(source));
}

}  // namespace postern::imagebuild
