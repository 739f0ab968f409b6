// Starting containers: what exec, run, shell and test share with instances.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "frontend/cli/command.h"
#include "frontend/instance/monitor.h"
#include "frontend/option/option.h"
#include "frontend/plan/action.h"
#include "policy/problem.h"

namespace postern::cli {

// Options and operands; what is to be said of them is said, help too. Error: the exit status.
Result<option::Arguments, int> parse_action(const Command& command,
                                            std::span<const std::string> words);

// Prints the problem, with the usage where that was wrong; returns the exit status.
int report(const Command& command, const Problem& problem);

// Starts a container in the mode that the site and the action call for, and waits for it. Of an
// instance: `monitor`, which is this process.
Outcome<int> start(plan::Action action, std::vector<int> inherited, instance::Monitor* monitor);

}  // namespace postern::cli
