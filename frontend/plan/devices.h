// What --nv, --rocm, --device and --containlibs bring from the host: libraries, programs, device
// nodes and variables.
#pragma once

#include <string>
#include <vector>

#include "frontend/plan/builder.h"

namespace postern::plan {

// The result is the variables of the devices' specifications, for LaunchRecord::forwarded.
Outcome<std::vector<std::string>> add_host_devices(Builder& builder);

}  // namespace postern::plan
