#include "frontend/system/replace_file.h"

#include <cerrno>
#include <cstdio>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/path/open_for_change.h"
#include "protocol/base/unique_fd.h"

namespace postern::system {
namespace {

Problem cannot_write(const std::string& path, int directory, int error) {
  struct stat status{};
  const bool of_root = ::fstat(directory, &status) == 0 && status.st_uid == 0;
  const bool no_right = error == EACCES || error == EPERM || error == EROFS;
  return system_problem("writing " + path, error, no_right && of_root ? "this needs root" : "");
}

bool write_whole(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno != EINTR) {
      return false;
    }
    text.remove_prefix(written > 0 ? static_cast<std::size_t>(written) : 0);
  }
  return true;
}

}  // namespace

Outcome<> replace_file(const std::string& path, std::string_view text, unsigned mode) {
  POSTERN_TRY_ASSIGN(const path::NewFile place, path::place_of_new_file(path));
  std::string temporary = place.path() + ".XXXXXX";
  const UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.valid()) {
    return cannot_write(path, place.directory.get(), errno);
  }
  const bool done = write_whole(file.get(), text) && ::fchmod(file.get(), mode) == 0 &&
                    ::fsync(file.get()) == 0 &&
                    ::rename(temporary.c_str(), place.path().c_str()) == 0;
  if (!done) {
    const int error = errno;
    ::unlink(temporary.c_str());
    return cannot_write(path, place.directory.get(), error);
  }
  // The rename itself must survive a crash as well.
  const UniqueFd parent(::openat(place.directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.valid() && ::fsync(parent.get()) != 0) {
    return cannot_write(path, place.directory.get(), errno);
  }
  return Ok{};
}

}  // namespace postern::system
