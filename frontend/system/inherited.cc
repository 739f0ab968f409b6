#include "frontend/system/inherited.h"

#include <algorithm>
#include <cstdlib>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace postern::system {
namespace {

constexpr int kFirst = STDERR_FILENO + 1;
constexpr int kProbed = 1024;  // where there is no /proc

void take(int fd, std::vector<int>& all) {
  if (fd >= kFirst && ::fcntl(fd, F_GETFD) == 0 && ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) {
    all.push_back(fd);
  }
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

}  // namespace postern::system
