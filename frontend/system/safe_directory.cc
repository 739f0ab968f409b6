#include "frontend/system/safe_directory.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include <sys/stat.h>

#include "policy/path/open_for_change.h"

namespace postern::system {
namespace {

// inode(7): in a sticky directory a name is removed or renamed by its owner, the directory's owner
// and root alone. The mode of a symbolic link says nothing (symlink(7)).
bool is_safe(const struct stat& status) {
  const bool others_write = !S_ISLNK(status.st_mode) && (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  return status.st_uid == 0 && (!others_write || (status.st_mode & S_ISVTX) != 0);
}

// `place`, an absolute path, and all above it.
Outcome<> check_all_above(const std::string& path, std::string place) {
  while (true) {
    struct stat status{};
    if (::lstat(place.c_str(), &status) != 0) {
      return system_problem("looking at '" + place + "'", errno);
    }
    if (!is_safe(status)) {
      return Problem{.what = "root does not work in '" + path +
                             "': users can exchange what lies in '" + place + "'",
                     .cure = "name a directory that belongs to root, below directories of root's"};
    }
    if (place == "/") {
      return {};
    }
    place.resize(std::max<std::size_t>(place.rfind('/'), 1));
  }
}

std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&::free)> real(::realpath(path.c_str(), nullptr), &::free);
  return real ? real.get() : "";
}

}  // namespace

Outcome<> check_safe_directory(const std::string& path) {
  if (!path::is_host_root()) {
    return {};
  }
  const std::string real = real_path(path);
  if (real.empty()) {
    return system_problem("looking at '" + path + "'", errno);
  }
  // The way there as well: a link of a user's leads elsewhere the next time.
  POSTERN_TRY(check_all_above(path, path.starts_with('/') ? path : real_path(".") + '/' + path));
  return check_all_above(path, real);
}

Outcome<> check_safe_to_make(const std::string& path) {
  if (!path::is_host_root()) {
    return {};
  }
  struct stat status{};
  std::string present = path;
  while (::lstat(present.c_str(), &status) != 0) {
    if (errno != ENOENT) {
      return system_problem("looking at '" + path + "'", errno);
    }
    const std::size_t slash = present.rfind('/');
    if (slash == std::string::npos) {
      return check_safe_directory(".");
    }
    present.resize(std::max<std::size_t>(slash, 1));
  }
  return check_safe_directory(present);
}

}  // namespace postern::system
