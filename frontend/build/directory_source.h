// Source: a directory on this host (a sandbox, or any root file system).
#pragma once

#include <memory>
#include <string>

#include "frontend/build/source.h"

namespace postern::build {

struct DirectoryOptions {
  // Device and inode number of a file to leave out (the image being replaced), 0 where there is none.
  std::uint64_t skip_device = 0;
  std::uint64_t skip_inode = 0;
};

// `path` is opened at once. Sockets are left out; mounted kernel file systems (proc, sysfs, cgroup
// and the like) are kept as empty directories.
Outcome<std::unique_ptr<Source>> directory_source(const std::string& path, DirectoryOptions options);

}  // namespace postern::build
