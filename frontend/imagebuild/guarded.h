// A program of the build with a guard: if the build is killed, so is the program with all that it
// has started. PR_SET_PDEATHSIG alone would end the program and leave its children.
#pragma once

#include <functional>
#include <string>

#include "policy/problem.h"

namespace postern::imagebuild {

// Runs `become` in a new process; it executes the program, and returns if that fails, with errno
// set. Returns the status of wait(2). `name` is for errors.
Outcome<int> run_guarded(const std::function<void()>& become, const std::string& name);

}  // namespace postern::imagebuild
