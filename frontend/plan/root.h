// What the root is made of: the image, and the layers over it.
#pragma once

#include <vector>

#include "frontend/plan/builder.h"

namespace postern::plan {

// Moves the image's server out of `image`. Must be the first: source 0 is the root.
Outcome<> add_root(Builder& builder, OpenImage& image);

// `overlays`: those inside the image file.
Outcome<> add_layers(Builder& builder, std::vector<ImageServer> overlays);

}  // namespace postern::plan
