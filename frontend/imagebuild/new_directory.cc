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
constexpr std::string_view kFormer = "former-";  // and the name that it had

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

// The names in an open directory that begin with `prefix`.
std::vector<std::string> names_with(int directory, std::string_view prefix) {
  UniqueFd own(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(own.get()));
  std::vector<std::string> names;
  if (!stream) {
    return names;
  }
  (void)own.release();
  // NOLINTNEXTLINE(concurrency-mt-unsafe): own stream
  while (const dirent* entry = ::readdir(stream.get())) {
    if (std::string_view(entry->d_name).starts_with(prefix)) {
      names.emplace_back(entry->d_name);
    }
  }
  return names;
}

// A build that was killed between the two steps of replacing a directory has put away what was
// there: back, unless another one is there by now.
void put_former_back(int parent, int outer) {
  for (const std::string& former : names_with(outer, kFormer)) {
    const std::string name = former.substr(kFormer.size());
    if (::faccessat(parent, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT) {
      (void)::renameat(outer, former.c_str(), parent, name.c_str());
    }
  }
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
  // The former one goes with the outer directory.
  if (errno == EEXIST &&
      ::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    return {};
  }
  // COMPAT: file systems without such flags (NFS, Lustre, FUSE): renameat2(2), ERRORS.
  return errno == EINVAL ? finish_in_two_steps()
                         : system_problem("renaming '" + made + "' to '" + target_ + "'", errno);
}

Outcome<> NewDirectory::finish_in_two_steps() {
  const std::string former = outer_ + "/" + std::string(kFormer) + name_of(target_);
  const bool replaces = ::rename(target_.c_str(), former.c_str()) == 0;
  if (!replaces && errno != ENOENT) {
    return system_problem("replacing '" + target_ + "'", errno);
  }
  if (::rename(path().c_str(), target_.c_str()) != 0) {
    const int error = errno;
    if (replaces) {
      (void)::rename(former.c_str(), target_.c_str());
    }
    return system_problem("renaming '" + path() + "' to '" + target_ + "'", error);
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
  const UniqueFd place(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const int parent = place.get();
  for (const std::string& name : names_with(parent, kPrefix)) {
    const UniqueFd lock = locked(parent, name);
    if (!lock.valid()) {
      continue;
    }
    put_former_back(parent, lock.get());
    if (remove_tree(parent, name) || remove_in_namespace(parent, name)) {
      message::verbose("removed '" + directory + "/" + name + "', left by a build that was killed");
    } else {
      message::warning("'" + directory + "/" + name +
                       "', left by a build that was killed, cannot be removed");
    }
  }
}

}  // namespace postern::imagebuild
