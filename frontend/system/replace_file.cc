#include "frontend/system/replace_file.h"

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::system {
namespace {

Problem cannot_write(const std::string& path, int error) {
  const bool no_right = error == EACCES || error == EPERM || error == EROFS;
  return system_problem("writing " + path, error, no_right ? "this needs root" : "");
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

Outcome<> replace_file(const std::string& path, std::string_view text) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  std::string temporary = path + ".XXXXXX";
  const UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.valid()) {
    return cannot_write(path, errno);
  }
  const bool done = write_whole(file.get(), text) && ::fchmod(file.get(), 0644) == 0 &&
                    ::fsync(file.get()) == 0 && ::rename(temporary.c_str(), path.c_str()) == 0;
  if (!done) {
    const int error = errno;
    ::unlink(temporary.c_str());
    return cannot_write(path, error);
  }
  // The rename itself must survive a crash as well.
  const UniqueFd parent(
      ::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.valid() && ::fsync(parent.get()) != 0) {
    return cannot_write(path, errno);
  }
  return Ok{};
}

}  // namespace postern::system
