#include "frontend/system/replace_file.h"

#include <cerrno>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/path/fresh_file.h"
#include "policy/path/open_for_change.h"
#include "policy/write_problem.h"

namespace postern::system {
namespace {

Outcome<> check_right(const std::string& path) {
  POSTERN_TRY_ASSIGN(const path::NewFile place, path::place_of_new_file(path));
  if (::faccessat(place.directory.get(), ".", W_OK, AT_EACCESS) == 0 || errno != EACCES) {
    return Ok{};
  }
  struct stat status{};
  const bool of_root = ::fstat(place.directory.get(), &status) == 0 && status.st_uid == 0;
  return system_problem("writing " + path, EACCES, of_root ? "this needs root" : "");
}

Outcome<> write_whole(int file, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno != EINTR) {
      return write_problem("writing " + path, errno, "choose another place");
    }
    text.remove_prefix(written > 0 ? static_cast<std::size_t>(written) : 0);
  }
  return Ok{};
}

}  // namespace

Outcome<> replace_file(const std::string& path, std::string_view text, unsigned mode) {
  POSTERN_TRY(check_right(path));
  POSTERN_TRY_ASSIGN(path::FreshFile file, path::FreshFile::create(path, mode));
  POSTERN_TRY(write_whole(file.fd(), text, path));
  if (::fchmod(file.fd(), mode) != 0) {  // whatever the umask
    return system_problem("writing " + path, errno);
  }
  return file.place();
}

}  // namespace postern::system
