#include "frontend/imagebuild/remove_tree.h"

#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"

namespace postern::imagebuild {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

Problem failed(const std::string& path) {
  return system_problem("removing '" + path + "'", errno,
                        errno == EBUSY ? "unmount what is mounted there" : "");
}

// Unlinks what is no directory in `path` below `root`; the directories' names go to `below`.
Outcome<> empty_directory(int root, const std::string& path, std::vector<std::string>& below) {
  const UniqueFd place = open_beneath(root, path, O_PATH | O_DIRECTORY);
  struct stat status{};
  if (!place.valid() || ::fstat(place.get(), &status) != 0) {
    return failed(path);
  }
  // Through /proc: fchmod(2) refuses O_PATH descriptors, and opening the directory needs the mode.
  if ((status.st_mode & 0700) != 0700 && ::getuid() != 0) {
    const std::string link = "/proc/self/fd/" + std::to_string(place.get());
    if (::chmod(link.c_str(), 0700) != 0) {
      return failed(path);
    }
  }
  UniqueFd fd = open_beneath(root, path, O_RDONLY | O_DIRECTORY);
  const int directory = fd.get();
  const std::unique_ptr<DIR, CloseDirectory> stream(fd.valid() ? ::fdopendir(fd.get()) : nullptr);
  if (!stream) {
    return failed(path);
  }
  static_cast<void>(fd.release());
  while (const dirent* entry =
             ::readdir(stream.get())) {  // NOLINT(concurrency-mt-unsafe): own stream
    const std::string name = entry->d_name;
    if (name == "." || name == "..") {
      continue;
    }
    if (::unlinkat(directory, name.c_str(), 0) == 0) {
      continue;
    }
    if (errno != EISDIR && errno != EPERM) {
      return failed(path + "/" + name);
    }
    below.push_back(path + "/" + name);
  }
  return {};
}

}  // namespace

Outcome<> remove_tree(int directory, const std::string& name) {
  // Depth first: a directory is removed when what stood above it on the stack is gone.
  std::vector<std::pair<std::string, bool>> stack{{name, false}};
  while (!stack.empty()) {
    const auto [path, emptied] = stack.back();
    if (emptied) {
      const UniqueFd parent = open_beneath(directory, parent_of(path), O_PATH | O_DIRECTORY);
      if (!parent.valid() || ::unlinkat(parent.get(), name_of(path).c_str(), AT_REMOVEDIR) != 0) {
        return failed(path);
      }
      stack.pop_back();
      continue;
    }
    stack.back().second = true;
    std::vector<std::string> below;
    POSTERN_TRY(empty_directory(directory, path, below));
    for (std::string& child : below) {
      stack.emplace_back(std::move(child), false);
    }
  }
  return {};
}

}  // namespace postern::imagebuild
