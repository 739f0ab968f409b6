// The mount library: executes a Plan. Used by the setuid helper, and by the frontend in
// user-namespace mode: there is no second implementation of binds, overlay or pivot.
#pragma once

#include <span>

#include "protocol/base/unique_fd.h"
#include "protocol/verdict_check.h"

namespace postern::helper {

// Step 1, in the mount namespace in which the descriptors were opened: replaces every bind source,
// device, directory layer and upper by a detached recursive clone (open_tree(2)) that is
// nosuid,nodev (and read-only where asked); nodev is left off for kDevice, whose node is checked to
// belong to the host's devtmpfs or devpts. What is kOptional and cannot be cloned is closed, so
// that step 3 skips it. ORDER: before the namespace is left: the kernel refuses to clone a foreign
// namespace's mount.
Result<> clone_sources(const Plan& plan, std::span<UniqueFd> descriptors) noexcept;

// Step 2, by a process that was born in the plan's new namespaces, with CAP_SYS_ADMIN over them:
// takes the mount namespace out of its peer groups, sets the host name, and lays a procfs of a new
// pid namespace and a sysfs of a new network namespace over /proc and /sys.
Result<> furnish_namespaces(const Plan& plan) noexcept;

// Step 3, in that mount namespace: mounts the layers, the overlay and every operation, then pivots:
// afterwards "/" and the working directory are the new root for every process of the namespace
// whose were the old one, and nothing of the old tree is reachable. Returns the mount id of the new
// "/" (statx(2)): what every process must see. Expects umask 022. Needs permitted CAP_SYS_ADMIN
// over the namespaces, and CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER for mount points on the
// overlay. Afterwards no capability is effective or inheritable. `root_device`: block device path
// of an image root, "" for others. Error: errno, Op and, where it concerns one operation, its index
// in `item`.
Result<std::uint64_t> build_root(const Plan& plan,
                                 std::span<UniqueFd> descriptors,
                                 const char* root_device) noexcept;

}  // namespace postern::helper
