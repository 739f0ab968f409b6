#include "frontend/system/read_file.h"

#include <array>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"
#include "protocol/limits.h"

namespace postern::system {

std::optional<std::string> read_small_file(int fd) {
  std::string text;
  std::array<char, 16384> buffer;
  while (true) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 || text.size() > kMaxFileBytes) {
      return std::nullopt;
    }
    if (got == 0) {
      return text;
    }
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

std::optional<std::string> read_small_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  return file.valid() ? read_small_file(file.get()) : std::nullopt;
}

}  // namespace postern::system
