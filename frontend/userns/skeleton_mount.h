// A layer with the mount points that an image of somebody else's lacks.
#pragma once

#include <span>

#include "frontend/plan/skeleton.h"
#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::userns {

// A detached read-only nosuid,nodev tmpfs that holds `entries`, owned by the calling process.
// Error: errno, Op::kMountRoot.
Result<UniqueFd> mount_skeleton(std::span<const plan::SkeletonEntry> entries) noexcept;

}  // namespace postern::userns
