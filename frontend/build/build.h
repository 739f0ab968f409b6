// The command `build`: from a source to an image file or a directory.
#pragma once

#include "frontend/build/options.h"
#include "policy/problem.h"

namespace postern::build {

Outcome<> run_build(const BuildOptions& options);

}  // namespace postern::build
