// Process 1 of a new pid namespace.
#pragma once

#include <sys/types.h>

namespace postern::init {

// Forks. The child returns, to become the payload; this process reaps orphans, forwards signals to
// the child and ends with the child's status, 128+N where signal N killed it (pid_namespaces(7):
// an init cannot be killed by a signal from its own namespace that it does not handle, so it cannot
// end the way the payload did). The kernel then kills whatever is left in the namespace.
// Returns only in the child, or with errno where fork(2) failed.
int become_reaper();

}  // namespace postern::init
