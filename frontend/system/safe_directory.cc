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
// and root alone.
bool is_safe(const struct stat& status) {
  const bool others_write = (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  return status.st_uid == 0 && (!others_write || (status.st_mode & S_ISVTX) != 0);
}

}  // namespace

Outcome<> check_safe_directory(const std::string& path) {
  if (!path::is_host_root()) {
    return {};
  }
  const std::unique_ptr<char, decltype(&::free)> real(::realpath(path.c_str(), nullptr), &::free);
  if (!real) {
    return system_problem("looking at '" + path + "'", errno);
  }
  std::string place = real.get();
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

}  // namespace postern::system
