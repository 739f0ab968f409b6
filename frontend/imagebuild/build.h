// The command `build`: from a source to an image file or a directory.
#pragma once

#include "frontend/imagebuild/options.h"
#include "policy/problem.h"

namespace postern::imagebuild {

Outcome<> run_build(const BuildOptions& options);

}  // namespace postern::imagebuild
