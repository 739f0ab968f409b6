#include "policy/config/read_file.h"

#include <cerrno>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::config {

Outcome<std::optional<std::string>> read_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!file.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) {
      return std::optional<std::string>();
    }
    return path_problem("opening " + path, errno, "check the path");
  }
  POSTERN_TRY_ASSIGN(std::string text, read_all(file.get(), path));
  return std::optional<std::string>(std::move(text));
}

Outcome<std::string> read_all(int file, const std::string& name) {
  struct stat status{};
  if (::fstat(file, &status) != 0) {
    return system_problem("reading " + name, errno);
  }
  if (!S_ISREG(status.st_mode)) {
    return Problem{.what = name + " is not a regular file"};
  }
  std::string text;
  for (;;) {
    constexpr std::size_t kChunk = 16 * 1024;
    const std::size_t had = text.size();
    text.resize(had + kChunk);
    const ssize_t got = ::read(file, text.data() + had, kChunk);
    if (got < 0 && errno != EINTR) {
      return system_problem("reading " + name, errno);
    }
    text.resize(had + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got == 0) {
      return text;
    }
    if (text.size() > kMaxConfigBytes) {
      return Problem{.what = name + " is larger than 1 MiB"};
    }
  }
}

}  // namespace postern::config
