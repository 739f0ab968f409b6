// Executes a LaunchPlan without privilege, in a user namespace.
#pragma once

#include "frontend/plan/launch_plan.h"
#include "frontend/start/attendant.h"
#include "policy/problem.h"

namespace postern::userns {

// Starts the container and waits for it. Returns the payload's status as of wait(2), for
// start::finish_like(). Error: what could not be set up, naming the item of the plan, with the cure
// where one is known.
Outcome<int> launch(plan::LaunchPlan plan, start::Attendant* attendant = nullptr);

}  // namespace postern::userns
