// Mounting what an image server serves, in the server's user namespace.
#pragma once

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::userns {

// A detached read-only nosuid,nodev mount of the connection behind `fuse`, which is closed: once
// the server dies the kernel then ends the connection, and nobody waits for it. A connection that
// is mounted already is mounted once more (Linux 5.15). Allocates nothing. Error: errno,
// Op::kMountRoot. ENOTCONN: the connection has ended.
Result<UniqueFd> mount_fuse(UniqueFd fuse) noexcept;

// Resolves `path` inside `root`, whatever symbolic links the image holds. `flags` as of open(2).
// Error: errno, Op::kTarget.
Result<UniqueFd> open_inside(int root, const char* path, int flags) noexcept;

}  // namespace postern::userns
