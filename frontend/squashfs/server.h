// Answers the kernel's requests for one mounted image.
#pragma once

#include <vector>

#include "frontend/squashfs/image.h"
#include "frontend/squashfs/options.h"
#include "frontend/squashfs/share.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::squashfs {

// What serve() needs but cannot open any more once the process is confined.
struct Devices {
  std::vector<UniqueFd> spare;  // /dev/fuse, one for each further thread; invalid: could not open
  Sharing sharing;              // with --listen-fd
};

// Takes the descriptors that the options name into its hands.
Devices open_devices(const Options& options) noexcept;

// Serves until the last mount is gone (or was never made: its maker ended). Ok then.
Outcome<> serve(Image& image, const Options& options, Devices& devices) noexcept;

}  // namespace postern::squashfs
