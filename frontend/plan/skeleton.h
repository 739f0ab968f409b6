// Mount points that an image directory lacks and that overlayfs could not make in it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

#include "protocol/launch_request.h"

namespace postern::plan {

struct SkeletonEntry {
  std::string path;       // absolute, inside the image; parents come before children
  mode_t mode = 0755;     // permission bits: the image's own where it has the directory
  bool directory = true;  // else an empty file
};

// To make a mount point in a directory, overlayfs copies the directory up with its owner. In a user
// namespace that maps the caller's ids alone, that fails (EOVERFLOW) for a directory of anybody
// else, such as a tree that an administrator unpacked. A layer that holds the same directories,
// owned by the caller, needs no copy: overlayfs merges them. This lists what the layer must hold
// for the targets of `mounts` in the directory `root`; empty where all exist or lie in the caller's
// own.
std::vector<SkeletonEntry> missing_mount_points(int root,
                                                uid_t uid,
                                                gid_t gid,
                                                std::span<const MountRequest> mounts);

}  // namespace postern::plan
