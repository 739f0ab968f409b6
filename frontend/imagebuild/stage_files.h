// %files from STAGE.
#pragma once

#include <string>

#include "frontend/imagebuild/definition.h"
#include "policy/problem.h"

namespace postern::imagebuild {

// Copies what `copy.from` (with wildcards) names in the root directory `from` of a stage to
// `copy.to` in the root directory `to`, as tar does: owners, modes and inner links stay. Every path
// is resolved inside its own root. A link that `copy.from` names itself is followed. Error: nothing
// matches.
Outcome<> copy_from_stage(const std::string& from, const std::string& to, const FileCopy& copy);

}  // namespace postern::imagebuild
