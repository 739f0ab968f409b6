// The mount of an image in a user namespace, before and without its server: a short-lived process
// makes it. Only that process and the server ever hold /dev/fuse.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "frontend/plan/launch_plan.h"
#include "frontend/start/id_map.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

inline constexpr std::size_t kMostDevices = 8;

struct ImageMount {
  // The first is mounted; the others are for FUSE_DEV_IOC_CLONE, which wants them opened in the
  // same user namespace.
  std::array<UniqueFd, kMostDevices> devices;
  UniqueFd user_namespace;
  UniqueFd mount_namespace;  // with the image as its root: each start clones it there
};

// Who will serve: a program of ours serves what nobody writes to, and the kernel checks permissions
// by the modes that it tells; a program of the user's does as it likes.
enum class MountedBy : std::uint8_t { kOurs, kProgram };

// `user_namespace`: to mount in; -1: a new one, of the one id.
Outcome<ImageMount> mount_image(Ids ids,
                                plan::Fakeroot fakeroot,
                                int user_namespace,
                                MountedBy server = MountedBy::kOurs);

// What to tell somebody who cannot open /dev/fuse.
Problem device_problem(int err);

// Clones the mount out of such a namespace, and comes back to this process's own
// mount namespace, root and directory. For a process with all capabilities in the user namespace
// that owns both. Error: errno.
Result<UniqueFd> clone_mount_of(int mount_namespace) noexcept;

}  // namespace postern::start
