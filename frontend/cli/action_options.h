// The options of exec, run, shell and test, and what they mean.
#pragma once

#include <span>

#include "frontend/cli/option.h"
#include "frontend/run/action.h"
#include "policy/problem.h"

namespace postern::cli {

inline constexpr CommandSet kExec = 1;
inline constexpr CommandSet kRun = 2;
inline constexpr CommandSet kShell = 4;
inline constexpr CommandSet kTest = 8;
inline constexpr CommandSet kActions = kExec | kRun | kShell | kTest;

std::span<const Option> action_options();

// Turns parsed options into run::Action: combined options (--compat, --containall) taken apart,
// numbers and names checked. Image and arguments are left to the caller.
Outcome<run::Action> to_action(const Arguments& arguments);

}  // namespace postern::cli
