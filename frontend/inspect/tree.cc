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

#include "frontend/squashfs/path_reader.h"
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
    tree->paths_ = std::make_unique<squashfs::PathReader>(*tree->image_);
    return std::unique_ptr<Tree>(std::move(tree));
  }

  FileBytes file(const std::string& path, std::uint64_t max_bytes) override {
    const auto inode = paths_->resolve(path);
    if (!inode) {
      return absent(inode.error().number) ? FileBytes{std::nullopt} : damaged(path, inode.error());
    }
    if (!S_ISREG(inode->mode)) {
      return FileBytes{std::nullopt};
    }
    auto text = paths_->bytes(*inode, max_bytes);
    if (!text) {
      return text.error().number == EFBIG ? too_large(path, max_bytes)
                                          : damaged(path, text.error());
    }
    return FileBytes{*std::move(text)};
  }

  Names names(const std::string& path) override {
    std::vector<std::string> found;
    const auto inode = paths_->resolve(path);
    if (!inode) {
      return absent(inode.error().number) ? Names{found} : Names{damaged(path, inode.error())};
    }
    if (!S_ISDIR(inode->mode)) {
      return found;
    }
    auto cursor = paths_->reader().open_listing(*inode, 0);
    if (!cursor) {
      return damaged(path, cursor.error());
    }
    squashfs::Entry entry{};
    while (true) {
      const auto more = paths_->reader().next_entry(*cursor, entry);
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

  squashfs::Extent extent_;
  std::unique_ptr<squashfs::Image> image_;
  std::unique_ptr<squashfs::PathReader> paths_;
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
