// Source: a directory on this host (a sandbox, or any root file system).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontend/imagebuild/source.h"

namespace postern::imagebuild {

// Owners on this host to owners in the image: `first` … `first + count - 1` become `inside` ….
struct OwnerRange {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  std::uint32_t inside = 0;
};

struct OwnerMap {
  std::vector<OwnerRange> users;  // the first range that fits counts; others stay as they are
  std::vector<OwnerRange> groups;
};

// The map of a caller who is not root: the caller's own files become root's, as they are root's in
// the caller's containers, and as they were before a sandbox was unpacked. Empty for root.
OwnerMap caller_is_root();

struct DirectoryOptions {
  OwnerMap owners = {};
  // Device and inode number of a file to leave out (the image being replaced), 0 where there is
  // none.
  std::uint64_t skip_device = 0;
  std::uint64_t skip_inode = 0;
};

// `path` is opened at once. Sockets are left out; mounted kernel file systems (proc, sysfs, cgroup
// and the like) are kept as empty directories.
Outcome<std::unique_ptr<Source>> directory_source(const std::string& path,
                                                  DirectoryOptions options);

}  // namespace postern::imagebuild
