// Executes a LaunchPlan without privilege, in a user namespace.
#pragma once

#include "frontend/plan/launch_plan.h"
#include "frontend/start/attendant.h"
#include "policy/problem.h"

namespace postern::userns {

// Starts the container and waits for it. Returns what to end with: the payload's exit status; where
// the payload was killed by a signal, this process dies of the same signal and does not return.
// Error: what could not be set up, naming the item of the plan, with the cure where one is known.
Outcome<int> launch(plan::LaunchPlan plan, start::Attendant* attendant = nullptr);

}  // namespace postern::userns
