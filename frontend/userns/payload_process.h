// The payload's process, from its birth to the execution of postern-init.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontend/run/launch_plan.h"
#include "frontend/userns/id_map.h"
#include "protocol/base/unique_fd.h"
#include "protocol/verdict.h"

namespace postern::userns {

// Where the new process was when something failed.
enum class Step : std::uint8_t {
  kClone,    // clone(2)
  kMap,      // identity maps of the new user namespace
  kReceive,  // the descriptors of the image's server
  kJoin,     // setns(2) into the server's user namespace
  kUnshare,  // the other namespaces
  kJoinNet,  // the network namespace of the request
  kLoopback,
  kOpen,          // a source; item = index of the descriptor
  kMount,         // what a server serves
  kMerge,         // passwd or group
  kCloneSources,  // clone_sources; error.item = operation
  kBuild,         // build_root; error.item = operation
  kDrop,
  kExecute,  // postern-init
};

struct Failure {
  Step step = Step::kClone;
  Error error;
  std::uint16_t source = 0;
};

// All that the process needs, prepared before it exists: it shares the memory of its parent, which
// sleeps until postern-init is executed (clone(2), CLONE_VM|CLONE_VFORK). That makes its birth
// cheap (no page tables to copy) and lets it report without a pipe.
struct PayloadSetup {
  const run::LaunchPlan* plan = nullptr;
  Verdict* verdict = nullptr;  // of the plan, checked; FUSE roots become mounts in it
  Ids ids;
  std::vector<int> descriptors;  // of the request; -1: the process opens it itself
  std::vector<int> channels;     // to the servers of the plan, in its order
  int user_namespace = -1;  // to join; -1 where the first server brings it or a new one is made
  int frontend = -1;        // pidfd of the parent

  // Filled in by the process.
  pid_t pid = -1;
  Failure failure;
  bool failed = false;
};

// Returns 0 once postern-init runs, setup.pid being a child of this process; else setup.failure is
// set and there is no child left.
int start_payload(PayloadSetup& setup);

// Empties the capability sets of the calling process except for `keep`, for good: bounding set
// too, and no_new_privs. Returns 0 or errno.
int drop_capabilities(std::uint64_t keep) noexcept;

}  // namespace postern::userns
