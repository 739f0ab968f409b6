#include "frontend/system/read_file.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"
#include "protocol/limits.h"

namespace postern::system {

// Straight into the text: a buffer beside it would be pages of the stack that nothing else touches.
std::optional<std::string> read_small_file(int fd) {
  constexpr std::size_t kFirstBytes = 4096;
  std::string text;
  for (std::size_t have = 0; have <= kMaxFileBytes;) {
    if (have == text.size()) {
      text.resize(std::max(kFirstBytes, 2 * have));
    }
    const ssize_t got = ::read(fd, text.data() + have, text.size() - have);
    if (got == 0) {
      text.resize(have);
      return text;
    }
    if (got < 0 && errno != EINTR) {
      return std::nullopt;
    }
    have += static_cast<std::size_t>(std::max<ssize_t>(got, 0));
  }
  return std::nullopt;
}

std::optional<std::string> read_small_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  return file.valid() ? read_small_file(file.get()) : std::nullopt;
}

}  // namespace postern::system
