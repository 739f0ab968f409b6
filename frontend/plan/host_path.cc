#include "frontend/plan/host_path.h"

#include <cerrno>
#include <cstdlib>

#include <sys/stat.h>

#include <unistd.h>

namespace postern::plan {
namespace {

// A part of a path that another user may have prepared must be a directory of the caller's, not a
// link to somewhere else.
Outcome<> check_prepared(const std::string& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) {
    return system_problem("looking at " + path, errno);
  }
  if (!S_ISDIR(status.st_mode)) {
    return Problem{.what = path + " is a link or a file, and must be a directory",
                   .cure = "remove it, or name another place"};
  }
  if (status.st_uid != ::geteuid()) {
    return Problem{.what = path + " belongs to another user",
                   .cure = "name a directory of your own"};
  }
  return Ok{};
}

}  // namespace

bool is_directory(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool exists(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0;
}

bool is_own(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && status.st_uid == ::geteuid();
}

// The path with every symbolic link followed, or the path itself where that fails.
std::string resolved(const std::string& path) {
  char* real = ::realpath(path.c_str(), nullptr);
  std::string text = real != nullptr ? real : path;
  ::free(real);  // NOLINT(cppcoreguidelines-no-malloc): realpath(3) allocates
  return text;
}

// mkdir -p; the last component gets `mode` (with the sticky bit, past the umask). What lies below
// the first `named` bytes, which the user named, must be the caller's own.
Outcome<> make_directory(const std::string& path, mode_t mode, std::size_t named) {
  for (std::size_t at = 1; at != std::string::npos; ++at) {
    at = path.find('/', at);
    const std::string part = path.substr(0, at);
    const bool last = at == std::string::npos;
    if (::mkdir(part.c_str(), last ? mode & 0777 : 0755) == 0) {
      if (last && ::chmod(part.c_str(), mode) != 0) {
        return system_problem("setting the mode of " + part, errno);
      }
    } else if (errno != EEXIST || (last && !is_directory(part))) {
      return system_problem("making the directory " + part, errno == EEXIST ? ENOTDIR : errno);
    } else if (part.size() > named) {
      POSTERN_TRY(check_prepared(part));
    }
    if (last) {
      break;
    }
  }
  return Ok{};
}

}  // namespace postern::plan
