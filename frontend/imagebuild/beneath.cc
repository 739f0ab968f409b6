#include "frontend/imagebuild/beneath.h"

#include <climits>

#include <linux/openat2.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::imagebuild {
namespace {

UniqueFd open_piece(int from, const std::string& piece, int flags, unsigned mode) {
  open_how how{};
  // openat2(2) refuses flags that mean nothing with O_PATH.
  const int terminal = (flags & O_PATH) != 0 ? 0 : O_NOCTTY;
  how.flags = static_cast<unsigned>(flags | O_CLOEXEC | O_NOFOLLOW | terminal);
  how.mode = (flags & O_CREAT) != 0 ? mode : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return UniqueFd(static_cast<int>(::syscall(SYS_openat2, from, piece.c_str(), &how, sizeof(how))));
}

}  // namespace

UniqueFd open_beneath(int root, const std::string& path, int flags, unsigned mode) {
  UniqueFd here;
  std::size_t start = 0;
  while (path.size() - start >= PATH_MAX) {
    const std::size_t cut = path.rfind('/', start + PATH_MAX - 1);
    here = open_piece(here.valid() ? here.get() : root, path.substr(start, cut - start),
                      O_PATH | O_DIRECTORY, 0);
    if (!here.valid()) {
      return here;
    }
    start = cut + 1;
  }
  const std::string last = path.substr(start);
  return open_piece(here.valid() ? here.get() : root, last.empty() ? "." : last, flags, mode);
}

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

std::string name_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace postern::imagebuild
