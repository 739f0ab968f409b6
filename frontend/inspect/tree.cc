#include "frontend/inspect/tree.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/squashfs/reader.h"
#include "protocol/base/unique_fd.h"

namespace postern::inspect {
namespace {

using FileBytes = Outcome<std::optional<std::string>>;
using Names = Outcome<std::vector<std::string>>;

Problem too_large(const std::string& path, std::uint64_t max_bytes) {
  return Problem{.what =
                     path + " in the image is larger than " + std::to_string(max_bytes) + " bytes"};
}

Problem too_many(const std::string& path) {
  return Problem{.what = path + " in the image has too many entries"};
}

bool absent(int err) {
  return err == ENOENT || err == ENOTDIR || err == ELOOP;
}

// --- directories

class DirectoryTree final : public Tree {
 public:
  explicit DirectoryTree(UniqueFd root) : root_(std::move(root)) {}

  FileBytes file(const std::string& path, std::uint64_t max_bytes) override {
    const UniqueFd fd = open_inside(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd.valid()) {
      return absent(errno) ? FileBytes{std::nullopt} : system_problem("reading " + path, errno);
    }
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0) {
      return system_problem("reading " + path, errno);
    }
    if (!S_ISREG(status.st_mode)) {
      return FileBytes{std::nullopt};
    }
    std::string text;
    std::array<char, 65536> buffer{};
    while (true) {
      const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) {
        continue;
      }
      if (n < 0) {
        return system_problem("reading " + path, errno);
      }
      if (n == 0) {
        return FileBytes{std::move(text)};
      }
      text.append(buffer.data(), static_cast<std::size_t>(n));
      if (text.size() > max_bytes) {
        return too_large(path, max_bytes);
      }
    }
  }

  Names names(const std::string& path) override {
    UniqueFd fd = open_inside(path, O_RDONLY | O_DIRECTORY);
    if (!fd.valid()) {
      return absent(errno) ? Names{std::vector<std::string>{}}
                           : Names{system_problem("reading " + path, errno)};
    }
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(fd.get()), ::closedir);
    if (entries == nullptr) {
      return system_problem("reading " + path, errno);
    }
    (void)fd.release();  // closedir(3) closes it
    std::vector<std::string> found;
    while (const dirent* entry = ::readdir(entries.get())) {  // NOLINT(concurrency-mt-unsafe)
      const std::string name = entry->d_name;
      if (name != "." && name != "..") {
        found.push_back(name);
      }
      if (found.size() > kMaxNames) {
        return too_many(path);
      }
    }
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  // A link in the image leads to a place in the image.
  [[nodiscard]] UniqueFd open_inside(const std::string& path, int flags) const {
    struct open_how how{};
    how.flags = static_cast<decltype(how.flags)>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    const long fd = ::syscall(SYS_openat2, root_.get(), path.c_str(), &how, sizeof how);
    return UniqueFd(static_cast<int>(fd));
  }

  UniqueFd root_;
};

// --- squashfs

class SquashfsTree final : public Tree {
 public:
  static Outcome<std::unique_ptr<Tree>> open(int fd, const sif::Extent& extent) {
    auto tree = std::unique_ptr<SquashfsTree>(new SquashfsTree(fd, extent));
    // A few blocks: some small files are read once.
    POSTERN_TRY_ASSIGN(
        tree->image_, squashfs::Image::open(tree->extent_, {.data = 8 << 20, .metadata = 1 << 20}));
    tree->reader_ = std::make_unique<squashfs::Reader>(*tree->image_);
    return std::unique_ptr<Tree>(std::move(tree));
  }

  FileBytes file(const std::string& path, std::uint64_t max_bytes) override {
    const auto inode = resolve(path);
    if (!inode) {
      return absent(inode.error().number) ? FileBytes{std::nullopt} : damaged(path, inode.error());
    }
    if (!S_ISREG(inode->mode)) {
      return FileBytes{std::nullopt};
    }
    if (inode->size > max_bytes) {
      return too_large(path, max_bytes);
    }
    std::vector<squashfs::DataBlock> blocks;
    const std::uint64_t count = inode->size / image_->super().block_size + 1;
    const auto found = reader_->blocks(*inode, 0, count, blocks);
    if (!found) {
      return damaged(path, found.error());
    }
    std::string text;
    for (const squashfs::DataBlock& block : blocks) {
      if (block.length > max_bytes - text.size()) {
        return too_large(path, max_bytes);
      }
      if (block.hole()) {
        text.append(block.length, '\0');
        continue;
      }
      const auto data = reader_->data(block);
      if (!data) {
        return damaged(path, data.error());
      }
      const auto bytes = data->bytes().subspan(block.offset, block.length);
      // SAFETY: bytes, as characters.
      text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    return FileBytes{std::move(text)};
  }

  Names names(const std::string& path) override {
    std::vector<std::string> found;
    const auto inode = resolve(path);
    if (!inode) {
      return absent(inode.error().number) ? Names{found} : Names{damaged(path, inode.error())};
    }
    if (!S_ISDIR(inode->mode)) {
      return found;
    }
    auto cursor = reader_->open_listing(*inode, 0);
    if (!cursor) {
      return damaged(path, cursor.error());
    }
    squashfs::Entry entry{};
    while (true) {
      const auto more = reader_->next_entry(*cursor, entry);
      if (!more) {
        return damaged(path, more.error());
      }
      if (!*more) {
        break;
      }
      found.emplace_back(entry.name());
      if (found.size() > kMaxNames) {
        return too_many(path);
      }
    }
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  SquashfsTree(int fd, const sif::Extent& extent) : extent_(fd, extent.offset, extent.bytes) {}

  static Problem damaged(const std::string& path, squashfs::Errno error) {
    return system_problem("reading " + path + " in the image", error.number,
                          "the image is damaged; fetch or build it again");
  }

  // As the kernel would with this image as the root: ".." at the top stays there, at most 40 links
  // (path_resolution(7)).
  squashfs::Read<squashfs::Inode> resolve(std::string path) {
    std::vector<squashfs::InodeId> parents{reader_->root()};
    for (unsigned links = 0;;) {
      const std::size_t start = path.find_first_not_of('/');
      if (start == std::string::npos) {
        return reader_->inode(parents.back());
      }
      const std::size_t end = std::min(path.find('/', start), path.size());
      const std::string name = path.substr(start, end - start);
      path.erase(0, end);
      if (name == "." || name == "..") {
        if (name == ".." && parents.size() > 1) {
          parents.pop_back();
        }
        continue;
      }
      POSTERN_TRY_ASSIGN(const squashfs::Inode directory, reader_->inode(parents.back()));
      if (!S_ISDIR(directory.mode)) {
        return squashfs::Errno{ENOTDIR};
      }
      squashfs::Entry entry{};
      POSTERN_TRY_ASSIGN(const bool found, reader_->find_entry(directory, name, entry));
      if (!found) {
        return squashfs::Errno{ENOENT};
      }
      POSTERN_TRY_ASSIGN(const squashfs::Inode inode, reader_->inode(entry.inode));
      if (!S_ISLNK(inode.mode)) {
        parents.push_back(entry.inode);
        continue;
      }
      POSTERN_TRY_ASSIGN(const std::string target, reader_->link_text(inode));
      if (++links > 40 || path.size() + target.size() > 65536) {
        return squashfs::Errno{ELOOP};
      }
      if (target.starts_with('/')) {
        parents.resize(1);
      }
      path = target + path;
    }
  }

  squashfs::Extent extent_;
  std::unique_ptr<squashfs::Image> image_;
  std::unique_ptr<squashfs::Reader> reader_;
};

}  // namespace

Outcome<std::unique_ptr<Tree>> open_tree(int fd, const image::ImageInfo& info) {
  if (info.encrypted) {
    return Problem{.what = "the image is encrypted, and it carries no metadata outside of that",
                   .cure = "`postern decrypt` it, or run it with its key"};
  }
  if (info.kind != image::Kind::kDirectory) {
    return SquashfsTree::open(fd, info.extent);
  }
  UniqueFd root(::openat(fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return system_problem("opening the image directory", errno);
  }
  return std::unique_ptr<Tree>(std::make_unique<DirectoryTree>(std::move(root)));
}

}  // namespace postern::inspect
