#include "frontend/imagebuild/host_files.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/progress.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
constexpr std::uint32_t kFilesLayer = ~std::uint32_t{0} - 1;

Problem unreadable(const std::string& path) {
  return system_problem("%files: reading '" + path + "'", errno,
                        errno == EACCES ? "make it readable (chmod u+r)" : "");
}

Outcome<std::vector<std::string>> matches(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &found);
  std::vector<std::string> paths;
  for (std::size_t i = 0; status == 0 && i < found.gl_pathc; ++i) {
    paths.emplace_back(found.gl_pathv[i]);
  }
  ::globfree(&found);
  if (paths.empty()) {
    return Problem{.what = "%files: '" + pattern + "' is not there"};
  }
  return paths;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

Outcome<std::vector<std::string>> names_in(const std::string& path) {
  const std::unique_ptr<DIR, CloseDirectory> stream(::opendir(path.c_str()));
  if (!stream) {
    return unreadable(path);
  }
  std::vector<std::string> names;
  while (const dirent* entry =
             ::readdir(stream.get())) {  // NOLINT(concurrency-mt-unsafe): own stream
    const std::string name = entry->d_name;
    if (name != "." && name != "..") {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

// One file or directory, without what is in it. `is_directory` says which.
Outcome<> HostFiles::add(Tree& tree,
                         const std::string& from,
                         const std::string& to,
                         bool& is_directory) {
  struct stat status{};
  if (::stat(from.c_str(), &status) != 0) {
    return unreadable(from);
  }
  is_directory = S_ISDIR(status.st_mode);
  if (!is_directory && !S_ISREG(status.st_mode)) {
    return Problem{.what = "%files: '" + from + "' is neither a file nor a directory"};
  }
  if (!is_directory && ::access(from.c_str(), R_OK) != 0) {
    return unreadable(from);
  }
  Inode inode;
  inode.kind = is_directory ? Kind::kDirectory : Kind::kFile;
  inode.origin = Origin::kHost;
  inode.mode = static_cast<std::uint16_t>(status.st_mode & 07777);
  inode.mtime = status.st_mtim.tv_sec;
  inode.size = is_directory ? 0 : static_cast<std::uint64_t>(status.st_size);
  bytes_ += inode.size;
  POSTERN_TRY_ASSIGN(const std::vector<std::string> path, split_path(to));
  if (is_directory && path.empty()) {
    return {};  // into the root, which stays as it is
  }
  POSTERN_TRY_ASSIGN(const InodeId id, tree.put(path, std::move(inode), kFilesLayer));
  if (!is_directory) {
    paths_[id] = from;
  }
  return {};
}

Outcome<> HostFiles::copy_one(Tree& tree, const std::string& from, const std::string& to) {
  std::vector<std::pair<std::string, std::string>> todo{{from, to}};
  while (!todo.empty()) {
    POSTERN_TRY(check_interrupt());
    const auto [source, target] = std::move(todo.back());
    todo.pop_back();
    bool is_directory = false;
    POSTERN_TRY(add(tree, source, target, is_directory));
    if (is_directory) {
      POSTERN_TRY_ASSIGN(const std::vector<std::string> names, names_in(source));
      for (const std::string& name : names) {
        todo.emplace_back(source + "/" + name, target + "/" + name);
      }
    }
  }
  return {};
}

Outcome<> HostFiles::copy(Tree& tree, const std::string& from, const std::string& to) {
  POSTERN_TRY_ASSIGN(const std::vector<std::string> paths, matches(from));
  for (std::string path : paths) {
    while (path.size() > 1 && path.ends_with('/')) {
      path.pop_back();
    }
    std::string target = to.empty() ? path : to;
    const Inode* const present = to.empty() ? nullptr : tree.find(target);
    if (paths.size() > 1 || target.ends_with('/') ||
        (present != nullptr && present->kind == Kind::kDirectory)) {
      target = to.empty() ? target : target + "/" + name_of(path);
    }
    POSTERN_TRY(copy_one(tree, path, target));
  }
  return {};
}

Outcome<> HostFiles::stream(Tree& tree, ContentSink& sink, message::Progress& progress) {
  POSTERN_TRY(base_->stream(tree, sink, progress));
  std::vector<std::byte> buffer(kBufferBytes);
  for (InodeId id = 0; id < tree.size(); ++id) {
    const Inode& inode = tree[id];
    const auto path = paths_.find(id);
    if (path == paths_.end() || inode.links == 0 || inode.size == 0 ||
        inode.origin != Origin::kHost) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const UniqueFd fd, open(id));
    POSTERN_TRY(sink.begin(id));
    for (std::uint64_t left = inode.size; left > 0;) {
      POSTERN_TRY(check_interrupt());
      const ssize_t got =
          ::read(fd.get(), buffer.data(),
                 static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer.size())));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        return unreadable(path->second);
      }
      if (got == 0) {
        break;  // it shrank meanwhile
      }
      const auto count = static_cast<std::size_t>(got);
      POSTERN_TRY(sink.append({buffer.data(), count}));
      progress.advance(count);
      left -= count;
    }
    POSTERN_TRY(sink.end());
  }
  return {};
}

Outcome<UniqueFd> HostFiles::open(InodeId file) const {
  const auto path = paths_.find(file);
  if (path == paths_.end()) {
    return Problem{.what = "%files: a file was lost"};
  }
  UniqueFd fd(::open(path->second.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd.valid()) {
    return unreadable(path->second);
  }
  return fd;
}

Outcome<std::string> HostFiles::head(const Tree& tree, InodeId file, std::size_t most) {
  const auto path = paths_.find(file);
  if (path == paths_.end() || tree[file].origin != Origin::kHost) {
    return base_->head(tree, file, most);
  }
  POSTERN_TRY_ASSIGN(const UniqueFd fd, open(file));
  std::string text(std::min<std::uint64_t>(most, tree[file].size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return unreadable(path->second);
    }
    if (got == 0) {
      break;
    }
    filled += static_cast<std::size_t>(got);
  }
  text.resize(filled);
  return text;
}

}  // namespace postern::imagebuild
