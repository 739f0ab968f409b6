#include "frontend/imagebuild/directory_source.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <map>
#include <utility>
#include <vector>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

// What the kernel makes up: copying it makes no sense, and some of it never ends.
constexpr std::array<long, 13> kKernelFileSystems = {
    PROC_SUPER_MAGIC, SYSFS_MAGIC,    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC,
    DEBUGFS_MAGIC,    TRACEFS_MAGIC,  SECURITYFS_MAGIC,   SELINUX_MAGIC,       BPF_FS_MAGIC,
    PSTOREFS_MAGIC,   BINFMTFS_MAGIC, NSFS_MAGIC};

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

std::uint32_t inside(const std::vector<OwnerRange>& ranges, std::uint32_t owner) {
  for (const OwnerRange& range : ranges) {
    if (owner >= range.first && owner - range.first < range.count) {
      return range.inside + (owner - range.first);
    }
  }
  return owner;
}

// Bytes of the hole at `offset`, at most `most`; 0 if there is data (lseek(2), SEEK_DATA).
std::uint64_t hole_at(int fd, std::uint64_t offset, std::uint64_t most) {
  const off_t data = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0) {
    struct stat status{};
    // ENXIO: nothing but a hole up to the end of the file.
    const bool rest = errno == ENXIO && ::fstat(fd, &status) == 0 &&
                      static_cast<std::uint64_t>(status.st_size) >= offset + most;
    return rest ? most : 0;
  }
  return std::min(static_cast<std::uint64_t>(data) - offset, most);
}

class DirectorySource : public Source {
 public:
  DirectorySource(UniqueFd root, std::string name, DirectoryOptions options)
      : root_(std::move(root)), name_(std::move(name)), options_(std::move(options)) {}

  Outcome<Tree> index() override;
  Outcome<> stream(Tree& tree, ContentSink& sink, message::Progress& progress) override;

  [[nodiscard]] std::uint64_t bytes() const override { return bytes_; }

  Outcome<std::string> head(const Tree& tree, InodeId file, std::size_t most) override;

 private:
  struct Pending {
    InodeId id;
    std::string path;  // relative to the root, empty for it
  };

  Outcome<> read_directory(Tree& tree, const Pending& pending, std::vector<Pending>& todo);
  Outcome<> read_entry(Tree& tree,
                       int directory,
                       const Pending& pending,
                       const std::string& name,
                       std::vector<Pending>& todo);
  Outcome<> read_metadata(int directory,
                          const std::string& name,
                          const std::string& path,
                          Inode& inode,
                          struct stat& status);
  Outcome<> read_attributes(int directory,
                            const std::string& name,
                            const std::string& path,
                            Inode& inode);
  Outcome<> stream_file(const Tree& tree,
                        InodeId id,
                        ContentSink& sink,
                        message::Progress& progress);

  [[nodiscard]] std::string full(const std::string& path) const {
    return path.empty() ? name_ : name_ + "/" + path;
  }

  UniqueFd root_;
  std::string name_;
  DirectoryOptions options_;
  std::uint64_t bytes_ = 0;
  std::map<std::pair<std::uint64_t, std::uint64_t>, InodeId> linked_;  // (device, inode) with links
  std::vector<std::string> paths_;  // of files, by ContentPlace::position
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kBufferBytes);
};

Problem unreadable(const std::string& path, int err) {
  return system_problem(
      "reading '" + path + "'", err,
      err == EACCES ? "make it readable (chmod u+r, directories u+rx), or build as its owner" : "");
}

Outcome<Tree> DirectorySource::index() {
  Tree tree;
  struct stat status{};
  POSTERN_TRY(read_metadata(root_.get(), "", "", tree[tree.root()], status));
  std::vector<Pending> todo{{tree.root(), ""}};
  while (!todo.empty()) {
    POSTERN_TRY(check_interrupt());
    const Pending pending = std::move(todo.back());
    todo.pop_back();
    POSTERN_TRY(read_directory(tree, pending, todo));
  }
  return tree;
}

Outcome<> DirectorySource::read_directory(Tree& tree,
                                          const Pending& pending,
                                          std::vector<Pending>& todo) {
  if (static_cast<std::size_t>(std::count(pending.path.begin(), pending.path.end(), '/')) >=
      kMaxDepth) {
    return Problem{.what = "'" + full(pending.path).substr(0, 60) + "...' is more than " +
                           std::to_string(kMaxDepth) + " directories deep"};
  }
  UniqueFd fd = open_beneath(root_.get(), pending.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!fd.valid()) {
    return unreadable(full(pending.path), errno);
  }
  struct statfs file_system{};
  if (!pending.path.empty() && ::fstatfs(fd.get(), &file_system) == 0 &&
      std::find(kKernelFileSystems.begin(), kKernelFileSystems.end(), file_system.f_type) !=
          kKernelFileSystems.end()) {
    message::verbose("'" + full(pending.path) +
                     "' is a kernel file system: kept as an empty directory");
    return {};
  }
  const int directory = fd.get();
  const std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(fd.get()));
  if (!stream) {
    return unreadable(full(pending.path), errno);
  }
  static_cast<void>(fd.release());  // closedir closes it
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry =
             ::readdir(stream.get())) {  // NOLINT(concurrency-mt-unsafe): own stream
    const std::string name = entry->d_name;
    if (name != "." && name != "..") {
      names.push_back(name);
    }
    errno = 0;
  }
  if (errno != 0) {
    return unreadable(full(pending.path), errno);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    POSTERN_TRY(read_entry(tree, directory, pending, name, todo));
  }
  return {};
}

Outcome<> DirectorySource::read_entry(Tree& tree,
                                      int directory,
                                      const Pending& pending,
                                      const std::string& name,
                                      std::vector<Pending>& todo) {
  const std::string path = pending.path.empty() ? name : pending.path + "/" + name;
  Inode inode;
  struct stat status{};
  POSTERN_TRY(read_metadata(directory, name, path, inode, status));
  if (S_ISSOCK(status.st_mode)) {
    message::verbose("'" + full(path) + "' is a socket: left out");
    return {};
  }
  if (options_.skip_inode != 0 && status.st_ino == options_.skip_inode &&
      status.st_dev == options_.skip_device) {
    message::verbose("'" + full(path) + "' is the image being built: left out");
    return {};
  }
  const bool linked = !S_ISDIR(status.st_mode) && status.st_nlink > 1;
  const std::pair<std::uint64_t, std::uint64_t> identity{status.st_dev, status.st_ino};
  if (linked) {
    if (const auto known = linked_.find(identity); known != linked_.end()) {
      tree.enter(pending.id, name, known->second, 0);
      return {};
    }
  }
  if (inode.kind == Kind::kFile) {
    inode.place.position = paths_.size();
    paths_.push_back(path);
    bytes_ += inode.size;
  }
  const bool is_directory = inode.kind == Kind::kDirectory;
  POSTERN_TRY_ASSIGN(const InodeId id, tree.add_inode(std::move(inode)));
  tree.enter(pending.id, name, id, 0);
  if (linked) {
    linked_.emplace(identity, id);
  }
  if (is_directory) {
    todo.push_back({id, path});
  }
  return {};
}

// `name` empty: the directory itself.
Outcome<> DirectorySource::read_metadata(int directory,
                                         const std::string& name,
                                         const std::string& path,
                                         Inode& inode,
                                         struct stat& status) {
  const int flags = name.empty() ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
  if (::fstatat(directory, name.c_str(), &status, flags) != 0) {
    return unreadable(full(path), errno);
  }
  switch (status.st_mode & S_IFMT) {
    case S_IFREG:
      inode.kind = Kind::kFile;
      inode.size = static_cast<std::uint64_t>(status.st_size);
      break;
    case S_IFDIR:
      inode.kind = Kind::kDirectory;
      break;
    case S_IFLNK:
      inode.kind = Kind::kSymlink;
      break;
    case S_IFCHR:
      inode.kind = Kind::kCharDevice;
      break;
    case S_IFBLK:
      inode.kind = Kind::kBlockDevice;
      break;
    case S_IFIFO:
      inode.kind = Kind::kFifo;
      break;
    default:
      return {};  // a socket: the caller leaves it out
  }
  inode.mode = static_cast<std::uint16_t>(status.st_mode & 07777);
  inode.uid = inside(options_.owners.users, status.st_uid);
  inode.gid = inside(options_.owners.groups, status.st_gid);
  inode.mtime = status.st_mtim.tv_sec;
  if (inode.kind == Kind::kCharDevice || inode.kind == Kind::kBlockDevice) {
    inode.major = gnu_dev_major(status.st_rdev);
    inode.minor = gnu_dev_minor(status.st_rdev);
  }
  if (inode.kind == Kind::kSymlink) {
    std::string target(PATH_MAX, '\0');
    const ssize_t length = ::readlinkat(directory, name.c_str(), target.data(), target.size());
    if (length < 0) {
      return unreadable(full(path), errno);
    }
    target.resize(static_cast<std::size_t>(length));
    inode.target = std::move(target);
  }
  return read_attributes(directory, name, path, inode);
}

Outcome<> DirectorySource::read_attributes(int directory,
                                           const std::string& name,
                                           const std::string& path,
                                           Inode& inode) {
  // By path through /proc, so that unreadable files and symbolic links show theirs as well: there
  // is no getxattrat(2) before Linux 6.13.
  const std::string link =
      "/proc/self/fd/" + std::to_string(directory) + (name.empty() ? "" : "/" + name);
  const auto call = [&](auto follow, auto no_follow, auto... more) {
    return name.empty() ? follow(link.c_str(), more...) : no_follow(link.c_str(), more...);
  };
  std::string names(4096, '\0');
  ssize_t length = call(::listxattr, ::llistxattr, names.data(), names.size());
  if (length < 0 && errno == ERANGE) {
    names.resize(XATTR_LIST_MAX);
    length = call(::listxattr, ::llistxattr, names.data(), names.size());
  }
  if (length < 0) {
    // ENOTSUP: a file system without attributes. ENOENT, EACCES: no /proc, or a directory without
    // x.
    return errno == ENOTSUP || errno == ENOENT || errno == EACCES ? Outcome<>()
                                                                  : unreadable(full(path), errno);
  }
  names.resize(static_cast<std::size_t>(length));
  for (std::size_t start = 0; start < names.size();) {
    const std::string attribute = names.c_str() + start;
    start += attribute.size() + 1;
    std::string value(XATTR_SIZE_MAX, '\0');
    const ssize_t size =
        call(::getxattr, ::lgetxattr, attribute.c_str(), value.data(), value.size());
    if (size < 0) {
      continue;  // gone meanwhile, or not for us (trusted.*)
    }
    value.resize(static_cast<std::size_t>(size));
    value.shrink_to_fit();
    inode.attributes.push_back({attribute, std::move(value)});
  }
  std::sort(inode.attributes.begin(), inode.attributes.end(),
            [](const Attribute& a, const Attribute& b) { return a.name < b.name; });
  return {};
}

Outcome<> DirectorySource::stream(Tree& tree, ContentSink& sink, message::Progress& progress) {
  std::vector<InodeId> files;
  tree.walk([&](const std::string&, InodeId id) {
    const Inode& inode = tree[id];
    if (inode.kind == Kind::kFile && inode.origin == Origin::kSource && inode.size > 0) {
      files.push_back(id);
    }
  });
  for (const InodeId id : files) {
    POSTERN_TRY(stream_file(tree, id, sink, progress));
  }
  return {};
}

Outcome<> DirectorySource::stream_file(const Tree& tree,
                                       InodeId id,
                                       ContentSink& sink,
                                       message::Progress& progress) {
  const std::string& path = paths_[tree[id].place.position];
  // O_NONBLOCK: the file may have become a pipe since.
  const UniqueFd fd = open_beneath(root_.get(), path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  struct stat status{};
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
    return unreadable(full(path), errno);
  }
  if (!S_ISREG(status.st_mode)) {
    return Problem{.what = "'" + full(path) + "' changed while it was read",
                   .cure = "build again when nothing writes to " + name_};
  }
  // What is stored is the size of the first look: a log file that grows for ever ends here.
  std::uint64_t left = tree[id].size;
  POSTERN_TRY(sink.begin(id));
  while (left > 0) {
    POSTERN_TRY(check_interrupt());
    const std::uint64_t empty = hole_at(fd.get(), tree[id].size - left, left);
    if (empty > 0) {
      POSTERN_TRY(sink.hole(empty));
      left -= empty;
      progress.advance(empty);
      continue;
    }
    const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer_.size()));
    const ssize_t got =
        ::pread(fd.get(), buffer_.data(), want, static_cast<off_t>(tree[id].size - left));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return unreadable(full(path), errno);
    }
    if (got == 0) {
      break;
    }
    const auto count = static_cast<std::size_t>(got);
    POSTERN_TRY(sink.append({buffer_.data(), count}));
    left -= count;
    progress.advance(count);
  }
  POSTERN_TRY(sink.end());
  if (left > 0 || static_cast<std::uint64_t>(status.st_size) > tree[id].size) {
    progress.hide();
    message::warning("'" + full(path) + "' changed its size while it was read");
    progress.advance(left);
  }
  return {};
}

Outcome<std::string> DirectorySource::head(const Tree& tree, InodeId file, std::size_t most) {
  if (tree[file].origin == Origin::kLiteral) {
    return tree[file].captured.substr(0, most);
  }
  const std::string& path = paths_[tree[file].place.position];
  const UniqueFd fd = open_beneath(root_.get(), path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (!fd.valid()) {
    return unreadable(full(path), errno);
  }
  std::string text(std::min<std::uint64_t>(most, tree[file].size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      break;
    }
    filled += static_cast<std::size_t>(got);
  }
  text.resize(filled);
  return text;
}

}  // namespace

OwnerMap caller_is_root() {
  OwnerMap map;
  if (::geteuid() != 0) {
    map.users.push_back({::geteuid(), 1, 0});
    map.groups.push_back({::getegid(), 1, 0});
  }
  return map;
}

Outcome<std::unique_ptr<Source>> directory_source(const std::string& path,
                                                  DirectoryOptions options) {
  UniqueFd root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return unreadable(path, errno);
  }
  return std::unique_ptr<Source>(
      std::make_unique<DirectorySource>(std::move(root), path, std::move(options)));
}

}  // namespace postern::imagebuild
