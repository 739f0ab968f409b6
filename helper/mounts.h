// The mount library: executes a Plan. Used by the setuid helper, and by the frontend in
// user-namespace mode: there is no second implementation of binds, overlay or pivot.
#pragma once

#include <span>

#include "helper/plan.h"
#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::helper {

// Step 1, in the mount namespace in which the descriptors were opened: replaces every bind source,
// device and directory descriptor by a detached recursive clone (open_tree(2)) that is
// nosuid,nodev (and read-only where asked); nodev is left off for kDevice, whose node is checked
// to belong to the host's devtmpfs or devpts.
// ORDER: before the namespace is left: the kernel refuses to clone a foreign namespace's mount.
Result<> clone_sources(const Plan& plan, std::span<UniqueFd> descriptors) noexcept;

// Step 2, in the new and private mount namespace: mounts the root, the scratch overlay and every
// operation, then pivots. `root_device` is the block device path of a kernel-mounted image ("" for
// other roots). Returns the number of kOptional operations that were skipped.
Result<unsigned> build_root(const Plan& plan,
                            std::span<UniqueFd> descriptors,
                            const char* root_device) noexcept;

}  // namespace postern::helper
