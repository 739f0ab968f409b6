#include "frontend/imagebuild/directory_writer.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <memory>
#include <utility>
#include <vector>

#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "policy/write_problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

Problem failed(const std::string& doing, const std::string& path) {
  return is_full(errno) || errno == EIO
             ? write_problem(doing + " '" + path + "'", errno, "choose another place")
             : system_problem(doing + " '" + path + "'", errno);
}

mode_t type_of(Kind kind) {
  return kind == Kind::kCharDevice ? S_IFCHR : S_IFBLK;
}

// What was left out as Privileged, by kind.
struct PrivilegedCounts {
  std::size_t programs = 0;
  std::size_t devices = 0;
  std::size_t attributes = 0;

  void warn() const {
    std::string text;
    const auto add = [&](std::size_t count, const char* what) {
      if (count > 0) {
        text += (text.empty() ? "" : ", ") + std::to_string(count) + what;
      }
    };
    add(programs, " set-user-ID or set-group-ID bits of programs");
    add(devices, " device nodes");
    add(attributes, " trusted or security attributes");
    if (!text.empty()) {
      message::warning("left out of the sandbox, where they would give rights on this host: " +
                       text + " (--keep-privileged keeps them)");
    }
  }
};

bool is_privileged(const Attribute& attribute) {
  return !attribute.name.starts_with("user.") && !attribute.name.starts_with("system.posix_acl");
}

// Of a program; of a directory S_ISGID only says which group new files get.
std::uint16_t unprivileged_mode(const Inode& inode) {
  constexpr std::uint16_t kSetId = S_ISUID | S_ISGID;
  const bool directory = inode.kind == Kind::kDirectory;
  return static_cast<std::uint16_t>(inode.mode & ~(directory ? S_ISUID : kSetId));
}

class Writer : public ContentSink {
 public:
  Writer(Tree& tree, UniqueFd root, std::string name, Privileged privileged)
      : tree_(tree),
        root_(std::move(root)),
        name_(std::move(name)),
        keep_privileged_(privileged == Privileged::kKeep),
        paths_(tree.size()) {}

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
  bool keep_privileged_;
  std::vector<std::string> paths_;  // first name of each inode, relative
  std::vector<InodeId> order_;      // as walked: directories first
  std::vector<bool> made_ = std::vector<bool>(tree_.size());
  UniqueFd file_;
  InodeId id_ = 0;
  std::uint64_t size_ = 0;
  std::size_t devices_ = 0;  // that could not be made
  std::size_t owners_ = 0;
  std::size_t attributes_ = 0;
  PrivilegedCounts privileged_;
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
  if (!keep_privileged_) {
    made_[id] = false;
    ++privileged_.devices;
    return {};
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
    if (!keep_privileged_ && is_privileged(attribute)) {
      ++privileged_.attributes;
      continue;
    }
    if (inode.kind == Kind::kSymlink ||
        ::setxattr(link.c_str(), attribute.name.c_str(), attribute.value.data(),
                   attribute.value.size(), 0) != 0) {
      ++attributes_;
    }
  }
  const std::uint16_t mode = keep_privileged_ ? inode.mode : unprivileged_mode(inode);
  privileged_.programs += mode != inode.mode ? 1U : 0U;
  if (inode.kind != Kind::kSymlink && ::chmod(link.c_str(), mode) != 0) {
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
  privileged_.warn();
  if (closed_ > 0 && ::geteuid() != 0) {
    message::warning(
        some(closed_, " directories are closed to you by their modes: --fix-perms opens them"));
  }
}

Outcome<> copy_bytes(int from, int to, const std::string& shown) {
  std::vector<char> buffer(std::size_t{1} << 20);
  while (true) {
    POSTERN_TRY(check_interrupt());
    const ssize_t got = ::read(from, buffer.data(), buffer.size());
    if (got == 0) {
      return {};
    }
    if (got < 0 && errno == EINTR) {
      continue;
    }
    for (ssize_t done = 0; got > 0 && done < got;) {
      const ssize_t put = ::write(to, buffer.data() + done, static_cast<std::size_t>(got - done));
      if (put < 0 && errno != EINTR) {
        return failed("writing", shown);
      }
      done += std::max<ssize_t>(put, 0);
    }
    if (got < 0) {
      return failed("copying to", shown);
    }
  }
}

Outcome<> write_text(int to, std::string_view text, const std::string& shown) {
  const auto size = static_cast<ssize_t>(text.size());
  return ::write(to, text.data(), text.size()) == size ? Outcome<>() : failed("writing", shown);
}

Outcome<> write_addition(
    int parent, const std::string& name, const Inode& inode, int host, const std::string& shown) {
  if (inode.kind == Kind::kDirectory) {
    return ::mkdirat(parent, name.c_str(), inode.mode) == 0 || errno == EEXIST
               ? Outcome<>()
               : failed("making", shown);
  }
  if (inode.kind == Kind::kSymlink) {
    return ::symlinkat(inode.target.c_str(), parent, name.c_str()) == 0 || errno == EEXIST
               ? Outcome<>()
               : failed("making", shown);
  }
  if (::unlinkat(parent, name.c_str(), 0) != 0 && errno != ENOENT) {
    return failed("replacing", shown);
  }
  const UniqueFd fd = open_beneath(parent, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!fd.valid()) {
    return failed("writing", shown);
  }
  POSTERN_TRY(host >= 0 ? copy_bytes(host, fd.get(), shown)
                        : write_text(fd.get(), inode.captured, shown));
  return ::fchmod(fd.get(), inode.mode) == 0 ? Outcome<>() : failed("writing", shown);
}

// Everything in a directory of this host, depth last. `visit` gets the parent's descriptor.
class Walk {
 public:
  using Visit = std::function<Outcome<>(
      int parent, const std::string& name, const struct stat& status, const std::string& path)>;

  Walk(int root, Visit visit) : root_(root), visit_(std::move(visit)) {}

  Outcome<> run() {
    std::vector<std::string> todo{""};
    while (!todo.empty()) {
      const std::string path = std::move(todo.back());
      todo.pop_back();
      POSTERN_TRY(check_interrupt());
      POSTERN_TRY(directory(path, todo));
    }
    return {};
  }

 private:
  struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };

  Outcome<> directory(const std::string& path, std::vector<std::string>& todo) {
    UniqueFd fd = open_beneath(root_, path, O_RDONLY | O_DIRECTORY);
    const std::unique_ptr<DIR, CloseDirectory> stream(fd.valid() ? ::fdopendir(fd.get()) : nullptr);
    if (!stream) {
      return failed("reading", path);
    }
    const int parent = fd.release();
    while (const dirent* entry =
               ::readdir(stream.get())) {  // NOLINT(concurrency-mt-unsafe): own stream
      const std::string name = entry->d_name;
      if (name == "." || name == "..") {
        continue;
      }
      const std::string below = path.empty() ? name : path + "/" + name;
      struct stat status{};
      if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
        return failed("looking at", below);
      }
      POSTERN_TRY(visit_(parent, name, status, below));
      if (S_ISDIR(status.st_mode)) {
        todo.push_back(below);
      }
    }
    return {};
  }

  int root_;
  Visit visit_;
};

// Names of a file's attributes, each ended by NUL.
std::string attribute_names(const std::string& link) {
  std::string names(XATTR_LIST_MAX, '\0');
  const ssize_t length = ::llistxattr(link.c_str(), names.data(), names.size());
  names.resize(static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  return names;
}

void take_attributes(const std::string& link, PrivilegedCounts& counts) {
  const std::string names = attribute_names(link);
  for (std::size_t start = 0; start < names.size();) {
    const Attribute attribute{.name = names.c_str() + start, .value = {}};
    start += attribute.name.size() + 1;
    if (is_privileged(attribute) && ::lremovexattr(link.c_str(), attribute.name.c_str()) == 0) {
      ++counts.attributes;
    }
  }
}

Outcome<> take_privilege(int parent,
                         const std::string& name,
                         const struct stat& status,
                         const std::string& path,
                         PrivilegedCounts& counts) {
  if (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode)) {
    ++counts.devices;
    return ::unlinkat(parent, name.c_str(), 0) == 0 ? Outcome<>() : failed("removing", path);
  }
  const mode_t bits = S_ISDIR(status.st_mode) ? mode_t{S_ISUID} : mode_t{S_ISUID | S_ISGID};
  if (!S_ISLNK(status.st_mode) && (status.st_mode & bits) != 0) {
    ++counts.programs;
    if (::fchmodat(parent, name.c_str(), status.st_mode & 07777 & ~bits, 0) != 0) {
      return failed("changing the mode of", path);
    }
  }
  take_attributes("/proc/self/fd/" + std::to_string(parent) + "/" + name, counts);
  return {};
}

}  // namespace

Outcome<> take_privileges(const std::string& path) {
  const UniqueFd root(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return failed("opening", path);
  }
  PrivilegedCounts counts;
  POSTERN_TRY(Walk(root.get(), [&](int parent, const std::string& name, const struct stat& status,
                                   const std::string& below) {
                return take_privilege(parent, name, status, path + "/" + below, counts);
              }).run());
  counts.warn();
  return {};
}

Outcome<> write_additions(const Tree& tree, const HostOpener& open, const std::string& path) {
  const UniqueFd root(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return system_problem("opening '" + path + "'", errno);
  }
  std::vector<std::pair<std::string, InodeId>> additions;
  tree.walk([&](const std::string& name, InodeId id) {
    const Inode& inode = tree[id];
    const bool added = inode.origin != Origin::kSource &&
                       (inode.kind == Kind::kFile || inode.kind == Kind::kSymlink);
    if (!name.empty() && (added || inode.kind == Kind::kDirectory)) {
      additions.emplace_back(name, id);
    }
  });
  for (const auto& [name, id] : additions) {
    const UniqueFd parent = open_beneath(root.get(), parent_of(name), O_PATH | O_DIRECTORY);
    if (!parent.valid()) {
      return failed("opening", path + "/" + parent_of(name));
    }
    UniqueFd host;
    if (tree[id].origin == Origin::kHost && tree[id].kind == Kind::kFile) {
      POSTERN_TRY_ASSIGN(host, open(id));
    }
    POSTERN_TRY(
        write_addition(parent.get(), name_of(name), tree[id], host.get(), path + "/" + name));
  }
  return {};
}

Outcome<> write_directory(Tree& tree,
                          Source& source,
                          const std::string& path,
                          Privileged privileged,
                          message::Progress& progress) {
  UniqueFd root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return system_problem("opening '" + path + "'", errno);
  }
  Writer writer(tree, std::move(root), path, privileged);
  POSTERN_TRY(writer.make_skeleton());
  POSTERN_TRY(source.stream(tree, writer, progress));
  progress.hide();
  return writer.write_rest();
}

}  // namespace postern::imagebuild
