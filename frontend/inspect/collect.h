// Finding an image's metadata.
#pragma once

#include "frontend/inspect/metadata.h"
#include "frontend/inspect/tree.h"

namespace postern::inspect {

// From the files that images keep under /.singularity.d and /scif/apps.
Metadata collect(Tree& tree);

// The image at `path`: from its "inspect-metadata.json" where a SIF has one (several: the first),
// else from its files. The definition file is the SIF's own object where there is one.
Outcome<Metadata> inspect(const std::string& path);

}  // namespace postern::inspect
