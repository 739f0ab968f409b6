// The payload's process, from its birth to the execution of postern-init.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontend/plan/launch_plan.h"
#include "frontend/start/failure.h"
#include "frontend/start/id_map.h"
#include "frontend/start/image_server.h"
#include "frontend/start/network.h"
#include "frontend/start/wait.h"
#include "frontend/system/descriptor_limit.h"
#include "protocol/base/unique_fd.h"
#include "protocol/verdict.h"

namespace postern::userns {

// All that the process needs, prepared before it exists: it shares the memory of its parent, which
// only waits, with a deadline, until postern-init is executed (clone(2), CLONE_VM). That makes its
// birth cheap (no page tables to copy) and lets it report without a pipe.
struct PayloadSetup {
  const plan::LaunchPlan* plan = nullptr;
  Verdict* verdict = nullptr;  // of the plan, checked; FUSE roots become mounts in it
  start::Ids ids;
  std::vector<int> descriptors;               // of the request; -1: the process opens it itself
  std::vector<const start::Server*> servers;  // of the plan, in its order
  int user_namespace = -1;                    // to join; -1: a new one
  int frontend = -1;                          // pidfd of the parent
  const start::NetworkProcess* network = nullptr;  // null: nothing carries a network
  system::DescriptorLimit limit;                   // the caller's, for the payload

  const start::BlockedSignals* signals = nullptr;  // all held

  int executed = -1;  // end of a pipe, closed by the program's execution: of start_payload

  // Filled in by the process.
  pid_t pid = -1;
  start::Failure failure;
  bool failed = false;
  bool prepared = false;  // all that is left is the program's execution
};

// Returns 0 once postern-init runs, setup.pid being a child of this process; else setup.failure is
// set and there is no child left.
int start_payload(PayloadSetup& setup);

}  // namespace postern::userns
