#include "frontend/imagebuild/directory_writer.h"

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/imagebuild/remove_tree.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

constexpr const char* kSpaceCure = "free some space where the sandbox is written";

Problem failed(const std::string& doing, const std::string& path) {
  const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  return system_problem(doing + " '" + path + "'", errno, full ? kSpaceCure : "");
}

mode_t type_of(Kind kind) {
  return kind == Kind::kCharDevice ? S_IFCHR : S_IFBLK;
}

class Writer : public ContentSink {
 public:
  Writer(Tree& tree, UniqueFd root, std::string name)
      : tree_(tree), root_(std::move(root)), name_(std::move(name)), paths_(tree.size()) {}

  Outcome<> make_skeleton();
  Outcome<> write_rest();

  Outcome<> begin(InodeId file) override;
  Outcome<> append(std::span<const std::byte> bytes) override;
  Outcome<> hole(std::uint64_t bytes) override;
  Outcome<> end() override;

 private:
  Outcome<> make(InodeId id);
  Outcome<> make_special(int parent, InodeId id);
  Outcome<> make_links();
  Outcome<> dress(InodeId id);
  void warn() const;

  [[nodiscard]] std::string full(const std::string& path) const {
    return path.empty() ? name_ : name_ + "/" + path;
  }

  Tree& tree_;
  UniqueFd root_;
  std::string name_;
  std::vector<std::string> paths_;  // first name of each inode, relative
  std::vector<InodeId> order_;      // as walked: directories first
  std::vector<bool> made_ = std::vector<bool>(tree_.size());
  UniqueFd file_;
  InodeId id_ = 0;
  std::uint64_t size_ = 0;
  std::size_t devices_ = 0;  // that could not be made
  std::size_t owners_ = 0;
  std::size_t attributes_ = 0;
  std::size_t closed_ = 0;  // directories that their owner cannot enter
};

Outcome<> Writer::make_skeleton() {
  tree_.walk([&](const std::string& path, InodeId id) {
    paths_[id] = path;
    order_.push_back(id);
  });
  for (const InodeId id : order_) {
    POSTERN_TRY(check_interrupt());
    if (id != tree_.root()) {
      POSTERN_TRY(make(id));
    }
  }
  return {};
}

Outcome<> Writer::make(InodeId id) {
  const Inode& inode = tree_[id];
  const std::string& path = paths_[id];
  if (inode.kind == Kind::kFile && inode.size > 0 && inode.origin != Origin::kLiteral) {
    return {};  // its bytes come with the stream
  }
  const UniqueFd parent = open_beneath(root_.get(), parent_of(path), O_PATH | O_DIRECTORY);
  if (!parent.valid()) {
    return failed("opening", full(parent_of(path)));
  }
  made_[id] = true;
  const std::string name = name_of(path);
  if (inode.kind == Kind::kDirectory) {
    // Open to its owner until all is in it; dress() gives it its own mode.
    return ::mkdirat(parent.get(), name.c_str(), 0700) == 0 ? Outcome<>()
                                                            : failed("making", full(path));
  }
  if (inode.kind == Kind::kFile) {
    made_[id] = false;
    POSTERN_TRY(begin(id));
    POSTERN_TRY(append(std::as_bytes(std::span(
        inode.captured.data(), inode.origin == Origin::kLiteral ? inode.captured.size() : 0))));
    return end();
  }
  return make_special(parent.get(), id);
}

Outcome<> Writer::make_special(int parent, InodeId id) {
  const Inode& inode = tree_[id];
  const std::string& path = paths_[id];
  const std::string name = name_of(path);
  if (inode.kind == Kind::kSymlink) {
    return ::symlinkat(inode.target.c_str(), parent, name.c_str()) == 0
               ? Outcome<>()
               : failed("making", full(path));
  }
  if (inode.kind == Kind::kFifo) {
    return ::mkfifoat(parent, name.c_str(), 0600) == 0 ? Outcome<>() : failed("making", full(path));
  }
  if (::mknodat(parent, name.c_str(), type_of(inode.kind) | 0600,
                ::gnu_dev_makedev(inode.major, inode.minor)) == 0) {
    return {};
  }
  if (errno != EPERM && errno != EINVAL) {
    return failed("making", full(path));
  }
  ++devices_;
  made_[id] = false;
  return {};
}

Outcome<> Writer::begin(InodeId file) {
  POSTERN_TRY(check_interrupt());
  id_ = file;
  size_ = 0;
  file_ = open_beneath(root_.get(), paths_[file], O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!file_.valid()) {
    return failed("making", full(paths_[file]));
  }
  made_[file] = true;
  return {};
}

Outcome<> Writer::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put =
        ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      return failed("writing", full(paths_[id_]));
    }
    size_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Outcome<> Writer::hole(std::uint64_t bytes) {
  size_ += bytes;
  return {};
}

Outcome<> Writer::end() {
  if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) {
    return failed("writing", full(paths_[id_]));
  }
  file_.reset();
  return {};
}

Outcome<> Writer::make_links() {
  std::vector<std::pair<std::string, InodeId>> links;
  for (const InodeId id : order_) {
    if (tree_[id].kind != Kind::kDirectory) {
      continue;
    }
    for (const auto& [name, entry] : *tree_[id].children) {
      const std::string path = paths_[id].empty() ? name : paths_[id] + "/" + name;
      if (tree_[entry.inode].kind != Kind::kDirectory && paths_[entry.inode] != path &&
          made_[entry.inode]) {
        links.emplace_back(path, entry.inode);
      }
    }
  }
  for (const auto& [path, id] : links) {
    const UniqueFd from = open_beneath(root_.get(), parent_of(paths_[id]), O_PATH | O_DIRECTORY);
    const UniqueFd to = open_beneath(root_.get(), parent_of(path), O_PATH | O_DIRECTORY);
    if (!from.valid() || !to.valid() ||
        ::linkat(from.get(), name_of(paths_[id]).c_str(), to.get(), name_of(path).c_str(), 0) !=
            0) {
      return failed("linking", full(path));
    }
  }
  return {};
}

// Owner, mode, attributes and times, in the order in which one does not undo the other.
Outcome<> Writer::dress(InodeId id) {
  const Inode& inode = tree_[id];
  const UniqueFd fd = open_beneath(root_.get(), paths_[id], O_PATH);
  if (!fd.valid()) {
    return failed("opening", full(paths_[id]));
  }
  if (::geteuid() == 0 && ::fchownat(fd.get(), "", inode.uid, inode.gid, AT_EMPTY_PATH) != 0) {
    if (errno != EPERM && errno != EINVAL) {
      return failed("changing the owner of", full(paths_[id]));
    }
    ++owners_;  // root of a user namespace that does not know this owner
  }
  const std::string link = "/proc/self/fd/" + std::to_string(fd.get());
  for (const Attribute& attribute : inode.attributes) {
    if (inode.kind == Kind::kSymlink ||
        ::setxattr(link.c_str(), attribute.name.c_str(), attribute.value.data(),
                   attribute.value.size(), 0) != 0) {
      ++attributes_;
    }
  }
  if (inode.kind != Kind::kSymlink && ::chmod(link.c_str(), inode.mode) != 0) {
    return failed("changing the mode of", full(paths_[id]));
  }
  closed_ += inode.kind == Kind::kDirectory && (inode.mode & 0700) != 0700 ? 1U : 0U;
  const timespec times[2] = {{.tv_sec = inode.mtime, .tv_nsec = 0},
                             {.tv_sec = inode.mtime, .tv_nsec = 0}};
  const std::string parent = parent_of(paths_[id]);
  const UniqueFd directory = open_beneath(root_.get(), parent, O_PATH | O_DIRECTORY);
  const std::string name = paths_[id].empty() ? "." : name_of(paths_[id]);
  if (!directory.valid() ||
      ::utimensat(directory.get(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return failed("changing the times of", full(paths_[id]));
  }
  return {};
}

Outcome<> Writer::write_rest() {
  POSTERN_TRY(make_links());
  made_[tree_.root()] = true;
  // Backwards: a directory comes after what is in it, whose changes would touch its time and whose
  // paths need its mode.
  for (auto id = order_.rbegin(); id != order_.rend(); ++id) {
    POSTERN_TRY(check_interrupt());
    if (made_[*id]) {
      POSTERN_TRY(dress(*id));
    }
  }
  warn();
  return {};
}

void Writer::warn() const {
  const auto some = [](std::size_t count, const char* what) {
    return std::to_string(count) + what;
  };
  if (devices_ > 0) {
    message::warning(some(devices_, " device nodes left out: making them needs root"));
  }
  if (owners_ > 0) {
    message::warning(
        some(owners_, " files belong to owners that this user namespace does not have"));
  }
  if (attributes_ > 0) {
    message::verbose(some(attributes_, " extended attributes left out"));
  }
  if (closed_ > 0 && ::geteuid() != 0) {
    message::warning(
        some(closed_, " directories are closed to you by their modes: --fix-perms opens them"));
  }
}

}  // namespace

Outcome<NewDirectory> NewDirectory::create(const std::string& target) {
  std::string clean = target;
  while (clean.size() > 1 && clean.ends_with('/')) {
    clean.pop_back();
  }
  const std::string name = name_of(clean);
  const std::string parent = clean.find('/') == std::string::npos ? "."
                             : parent_of(clean).empty()           ? "/"
                                                                  : parent_of(clean);
  std::string path = parent + "/." + name.substr(0, NAME_MAX - 16) + ".XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) {
    return system_problem("making a directory in '" + parent + "'", errno);
  }
  return NewDirectory(std::move(path), std::move(clean));
}

NewDirectory::NewDirectory(NewDirectory&& other) noexcept
    : path_(std::exchange(other.path_, {})), target_(std::move(other.target_)) {}

NewDirectory::~NewDirectory() {
  if (!path_.empty()) {
    if (const auto removed = remove_directory(path_); !removed) {
      message::warning(removed.error().what);
    }
  }
}

Outcome<> NewDirectory::finish() {
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) == 0) {
    path_.clear();
    return {};
  }
  if (errno != EEXIST) {
    return system_problem("renaming '" + path_ + "' to '" + target_ + "'", errno);
  }
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
    return system_problem("replacing '" + target_ + "'", errno);
  }
  return remove_directory(std::exchange(path_, {}));  // the former one
}

Outcome<> remove_directory(const std::string& path) {
  const std::string parent = path.find('/') == std::string::npos ? "."
                             : parent_of(path).empty()           ? "/"
                                                                 : parent_of(path);
  const UniqueFd directory(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) {
    return system_problem("opening '" + parent + "'", errno);
  }
  return remove_tree(directory.get(), name_of(path));
}

namespace {

Outcome<> write_addition(int parent,
                         const std::string& name,
                         const Inode& inode,
                         const std::string& bytes,
                         const std::string& shown) {
  if (inode.kind == Kind::kDirectory) {
    return ::mkdirat(parent, name.c_str(), inode.mode) == 0 || errno == EEXIST
               ? Outcome<>()
               : failed("making", shown);
  }
  if (::unlinkat(parent, name.c_str(), 0) != 0 && errno != ENOENT) {
    return failed("replacing", shown);
  }
  const UniqueFd fd = open_beneath(parent, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
  const auto size = static_cast<ssize_t>(bytes.size());
  if (!fd.valid() || ::write(fd.get(), bytes.data(), bytes.size()) != size ||
      ::fchmod(fd.get(), inode.mode) != 0) {
    return failed("writing", shown);
  }
  return {};
}

}  // namespace

Outcome<> write_additions(const Tree& tree, Source& source, const std::string& path) {
  const UniqueFd root(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return system_problem("opening '" + path + "'", errno);
  }
  std::vector<std::pair<std::string, InodeId>> additions;
  tree.walk([&](const std::string& name, InodeId id) {
    const bool file = tree[id].kind == Kind::kFile && tree[id].origin != Origin::kSource;
    if (!name.empty() && (file || tree[id].kind == Kind::kDirectory)) {
      additions.emplace_back(name, id);
    }
  });
  for (const auto& [name, id] : additions) {
    const Inode& inode = tree[id];
    const UniqueFd parent = open_beneath(root.get(), parent_of(name), O_PATH | O_DIRECTORY);
    if (!parent.valid()) {
      return failed("opening", path + "/" + parent_of(name));
    }
    std::string bytes = inode.captured;
    if (inode.origin == Origin::kHost) {
      POSTERN_TRY_ASSIGN(bytes, source.head(tree, id, inode.size));
    }
    POSTERN_TRY(write_addition(parent.get(), name_of(name), inode, bytes, path + "/" + name));
  }
  return {};
}

Outcome<> write_directory(Tree& tree,
                          Source& source,
                          const std::string& path,
                          message::Progress& progress) {
  UniqueFd root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return system_problem("opening '" + path + "'", errno);
  }
  Writer writer(tree, std::move(root), path);
  POSTERN_TRY(writer.make_skeleton());
  POSTERN_TRY(source.stream(tree, writer, progress));
  progress.hide();
  return writer.write_rest();
}

}  // namespace postern::imagebuild
