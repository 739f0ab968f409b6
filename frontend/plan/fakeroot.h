// Which ids root of a container has.
#pragma once

#include <cstdint>
#include <vector>

#include "frontend/plan/identity.h"
#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"

namespace postern::plan {

// Of root: kAllIds, or kNone without the capabilities for it. Of another caller who asks for
// --fakeroot: kSubordinate if /etc/subuid and /etc/subgid list the caller and newuidmap(1) and
// newgidmap(1) are installed; else kRootMapped.
Fakeroot choose_fakeroot(const Identity& caller, bool asked);

// A seccomp(2) program (struct sock_filter[]) for --fakeroot: calls succeed without effect that a
// user namespace of this kind cannot carry out and that package managers insist on. Without
// subordinate ids those are changes of owner, of the process's own ids and of capability sets, and
// new device nodes; with them, new device nodes. `mounts`: mount(2) and umount2(2) too, for
// programs of this host that prepare a root file system for chroot(2).
Outcome<std::vector<std::uint8_t>> imitation_filter(Fakeroot kind, bool mounts = false);

// Who the caller is inside.
Identity root_identity();

}  // namespace postern::plan
