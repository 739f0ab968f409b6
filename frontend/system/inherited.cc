#include "frontend/system/inherited.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::system {
namespace {

constexpr int kFirst = STDERR_FILENO + 1;
constexpr int kProbed = 1024;  // where there is no /proc

void take(int fd, std::vector<int>& all) {
  if (fd >= kFirst && ::fcntl(fd, F_GETFD) == 0 && ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) {
    all.push_back(fd);
  }
}

bool is_directory(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

}  // namespace

std::vector<int> take_inherited_descriptors() {
  std::vector<int> all;
  DIR* const directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) {
    for (int fd = kFirst; fd < kProbed; ++fd) {
      take(fd, all);
    }
    return all;
  }
  // The directory's own descriptor is close-on-exec: take() passes over it.
  while (const dirent* const entry = ::readdir(directory)) {
    take(std::atoi(entry->d_name), all);
  }
  ::closedir(directory);
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<int> take_out_directories(std::vector<int>& inherited) {
  std::vector<int> directories;
  for (int fd = STDIN_FILENO; fd < kFirst; ++fd) {
    if (is_directory(fd)) {
      const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
      if (!null.valid() || ::dup2(null.get(), fd) < 0) {
        ::close(fd);
      }
      directories.push_back(fd);
    }
  }
  std::copy_if(inherited.begin(), inherited.end(), std::back_inserter(directories), is_directory);
  std::erase_if(inherited, is_directory);
  return directories;
}

}  // namespace postern::system
