// Answers the kernel's requests for one mounted image.
#pragma once

#include "frontend/squashfs/image.h"
#include "frontend/squashfs/options.h"
#include "policy/problem.h"

namespace postern::squashfs {

// Serves until the last mount is gone (or was never made: its maker ended). Ok then.
Outcome<> serve(Image& image, const Options& options) noexcept;

}  // namespace postern::squashfs
