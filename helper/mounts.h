// The mount library: executes a Plan. Used by the setuid helper, and by the frontend in
// user-namespace mode: there is no second implementation of binds, overlay or pivot.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "protocol/verdict_check.h"
#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::helper {

// Step 1, in the mount namespace in which the descriptors were opened: replaces every bind source,
// device, directory layer, upper and directory root by a detached recursive clone (open_tree(2))
// that is nosuid,nodev (and read-only where asked); nodev is left off for kDevice, whose node is
// checked to belong to the host's devtmpfs or devpts. What is kOptional and cannot be cloned is
// closed, so that step 2 skips it.
// ORDER: before the namespace is left: the kernel refuses to clone a foreign namespace's mount.
Result<> clone_sources(const Plan& plan, std::span<UniqueFd> descriptors) noexcept;

struct Built {
  unsigned skipped = 0;                                            // kOptional operations skipped
  std::array<std::uint64_t, kMaxOperations / 64> skipped_items{};  // bit n % 64 of word n / 64
  std::uint64_t root_mount = 0;  // mount id of the new "/" (statx(2)): what every process must see
};

// Step 2, in the new mount namespace: sets the host name, mounts the root, the scratch overlay and
// every operation, then pivots: afterwards "/" and the working directory are the new root for every
// process of the namespace whose were the old one, and nothing of the old tree is reachable.
// Sets umask 022. Needs CAP_SYS_ADMIN over the namespaces, and permitted CAP_CHOWN,
// CAP_DAC_OVERRIDE and CAP_FOWNER for mount points on the scratch overlay. Afterwards the permitted
// capabilities are as before, none is inheritable, and all (setuid: none) are effective.
// `root_device`: block device path of a kernel-mounted image, "" for other roots.
// `procfs`: a detached procfs of the plan's new pid namespace where this process is not in it
// itself, else -1.
// Error: errno, Op and, where it concerns one operation, its index in `item`.
Result<Built> build_root(const Plan& plan, std::span<UniqueFd> descriptors, const char* root_device,
                         int procfs = -1) noexcept;

}  // namespace postern::helper
