// The command `build`: from a source to an image file or a directory.
#pragma once

#include "frontend/imagebuild/options.h"
#include "policy/problem.h"

namespace postern::imagebuild {

Outcome<> run_build(const BuildOptions& options);

// From a source that is no definition file to the SIF `options.output`, replacing what is there;
// says nothing but what the source does.
Outcome<> convert(const BuildOptions& options);

}  // namespace postern::imagebuild
