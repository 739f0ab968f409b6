// The options of exec, run, shell, test, instance start and instance run, and what they mean.
#pragma once

#include <span>

#include "frontend/option/option.h"
#include "frontend/plan/action.h"
#include "policy/problem.h"

namespace postern::cli {

inline constexpr option::CommandSet kExec = 1;
inline constexpr option::CommandSet kRun = 2;
inline constexpr option::CommandSet kShell = 4;
inline constexpr option::CommandSet kTest = 8;
inline constexpr option::CommandSet kInstanceStart = 16;
inline constexpr option::CommandSet kInstanceRun = 32;
inline constexpr option::CommandSet kInstances = kInstanceStart | kInstanceRun;
inline constexpr option::CommandSet kForeground = kExec | kRun | kShell | kTest;
inline constexpr option::CommandSet kActions = kForeground | kInstances;

std::span<const option::Option> action_options();

// Turns parsed options into plan::Action: combined options (--compat, --containall) taken apart,
// numbers and names checked. Image and arguments are left to the caller.
Outcome<plan::Action> to_action(const option::Arguments& arguments);

}  // namespace postern::cli
