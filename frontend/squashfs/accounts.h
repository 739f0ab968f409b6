// The image's account files, for a start whose root nobody of ours can read before the container is
// complete: setuid mode.
#pragma once

#include "frontend/squashfs/image.h"
#include "policy/problem.h"

namespace postern::squashfs {

// Hands a text over; `out` is of the starter's.
Outcome<> write_all(int out, const std::string& text) noexcept;

// Writes /etc/passwd and /etc/group of the image to `out` (not seekable): for each a line with the
// number of its bytes, then these; "-" stands for a file that is not there.
Outcome<> write_accounts(Image& image, int out) noexcept;

}  // namespace postern::squashfs
