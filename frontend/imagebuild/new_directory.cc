#include "frontend/imagebuild/new_directory.h"

#include <cerrno>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/beneath.h"
#include "frontend/imagebuild/build_namespace.h"
#include "frontend/imagebuild/remove_tree.h"
#include "frontend/message/message.h"
#include "frontend/system/safe_directory.h"
#include "policy/write_problem.h"

namespace postern::imagebuild {
namespace {

constexpr std::string_view kPrefix = ".postern-build-";

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

std::string parent_directory(const std::string& path) {
  return path.find('/') == std::string::npos ? "."
         : parent_of(path).empty()           ? "/"
                                             : parent_of(path);
}

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) {
    path.pop_back();
  }
  return path;
}

Problem cannot_make(const std::string& parent, int err) {
  return write_problem("making a directory in '" + parent + "'", err, "choose another place");
}

// The directory, open and locked; invalid if another process has it, or if it is gone by now.
UniqueFd locked(int parent, const std::string& name) {
  UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat status{};
  if (!fd.valid() || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 || ::fstat(fd.get(), &status) != 0 ||
      status.st_nlink == 0 || status.st_uid != ::geteuid()) {
    return {};
  }
  return fd;
}

// What root of a container made may belong to subordinate ids, which the caller can remove in a
// namespace of those alone. A process of its own, because entering one cannot be undone.
bool remove_in_namespace(int parent, const std::string& name) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool removed =
        enter_build_namespace({}).has_value() && remove_tree(parent, name).has_value();
    ::_exit(removed ? 0 : 1);
  }
  int status = -1;
  while (child > 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return child > 0 && status == 0;
}

}  // namespace

Outcome<NewDirectory> NewDirectory::create(const std::string& target) {
  std::string clean = without_slashes(target);
  // Absolute: programs of the build that run elsewhere are told it.
  std::error_code missing;
  const std::string parent = std::filesystem::canonical(parent_directory(clean), missing).string();
  if (missing) {
    return system_problem("making a directory in '" + parent_directory(clean) + "'",
                          missing.value());
  }
  POSTERN_TRY(system::check_safe_directory(parent));
  remove_abandoned(parent);
  const UniqueFd place(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  constexpr int kTries = 8;  // a process that tidies may take the directory before it is locked
  for (int i = 0; place.valid() && i < kTries; ++i) {
    std::string outer = parent + "/" + std::string(kPrefix) + "XXXXXX";
    if (::mkdtemp(outer.data()) == nullptr) {
      return cannot_make(parent, errno);
    }
    UniqueFd lock = locked(place.get(), name_of(outer));
    if (!lock.valid()) {
      continue;
    }
    if (::mkdirat(lock.get(), "rootfs", 0700) != 0) {
      const int error = errno;
      ::rmdir(outer.c_str());
      return cannot_make(outer, error);
    }
    return NewDirectory(std::move(outer), std::move(clean), std::move(lock));
  }
  return system_problem("making a directory in '" + parent + "'", place.valid() ? EBUSY : errno);
}

NewDirectory::~NewDirectory() {
  if (outer_.empty()) {
    return;
  }
  const UniqueFd parent(::open(parent_directory(outer_).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (const auto removed = remove_tree(parent.get(), name_of(outer_)); !removed) {
    message::warning(removed.error().what);
  }
}

Outcome<> NewDirectory::finish() {
  const std::string made = path();
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target_.c_str(), RENAME_NOREPLACE) == 0) {
    return {};  // what is left is the empty outer directory
  }
  if (errno != EEXIST) {
    return system_problem("renaming '" + made + "' to '" + target_ + "'", errno);
  }
  // The former one goes with the outer directory.
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
    return system_problem("replacing '" + target_ + "'", errno);
  }
  return {};
}

std::string NewDirectory::keep() {
  std::string kept = path();
  // Another name: nothing that tidies takes it for abandoned.
  std::string outer = std::exchange(outer_, {});
  const std::string name = parent_of(outer) + "/postern-kept-" + outer.substr(outer.size() - 6);
  return ::rename(outer.c_str(), name.c_str()) == 0 ? name + "/rootfs" : kept;
}

void remove_abandoned(const std::string& directory) {
  // In a directory of another user a name does not say who made what it names.
  if (!system::check_safe_directory(directory)) {
    return;
  }
  const std::unique_ptr<DIR, CloseDirectory> stream(::opendir(directory.c_str()));
  if (!stream) {
    return;
  }
  const int parent = ::dirfd(stream.get());
  std::vector<std::string> names;
  while (const dirent* entry =
             ::readdir(stream.get())) {  // NOLINT(concurrency-mt-unsafe): own stream
    if (std::string_view(entry->d_name).starts_with(kPrefix)) {
      names.emplace_back(entry->d_name);
    }
  }
  for (const std::string& name : names) {
    const UniqueFd lock = locked(parent, name);
    if (!lock.valid()) {
      continue;
    }
    if (remove_tree(parent, name) || remove_in_namespace(parent, name)) {
      message::verbose("removed '" + directory + "/" + name + "', left by a build that was killed");
    } else {
      message::warning("'" + directory + "/" + name +
                       "', left by a build that was killed, cannot be removed");
    }
  }
}

}  // namespace postern::imagebuild
