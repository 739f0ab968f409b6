// From an Action to a LaunchPlan: which mounts, in which order, from where; which environment,
// directory, namespaces and capabilities. Looks at the host's files; changes nothing but making the
// directories that --workdir and --overlay ask for.
#pragma once

#include <string>
#include <vector>

#include "frontend/plan/launch_plan.h"
#include "frontend/plan/plan_input.h"
#include "policy/problem.h"

namespace postern::plan {

// `warnings` gets sentences for message::warning. Errors name the option or path and the cure.
Outcome<LaunchPlan> make_plan(PlanInput input, std::vector<std::string>& warnings);

}  // namespace postern::plan
