// Starting an instance: the command's process waits until the script runs, and the monitor stays.
#pragma once

#include <functional>

#include "frontend/instance/monitor.h"
#include "policy/problem.h"

namespace postern::instance {

// Forks. `start` is called in the child, which becomes the monitor; it prepares the monitor with
// its plan, launches the payload, and returns only if that failed or once all is over. Returns the
// exit status in the command's process; the child does not return.
Outcome<int> start_detached(Wish wish, const std::function<Outcome<int>(Monitor&)>& start);

}  // namespace postern::instance
