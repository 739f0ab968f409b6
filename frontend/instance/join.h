// exec, run, shell and test in an instance that runs.
#pragma once

#include <string>
#include <vector>

#include "frontend/init/record.h"
#include "policy/problem.h"

namespace postern::instance {

// Starts the process that `wish` describes in the instance, with descriptors 0, 1, 2 and
// `inherited` of this process, and waits for it: signals go on to it, and it dies with this
// process. Returns what to end with, as userns::launch() does.
Outcome<int> join(const std::string& name, init::LaunchRecord wish, std::vector<int> inherited);

}  // namespace postern::instance
