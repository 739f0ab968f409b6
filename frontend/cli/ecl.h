// The execution control list in user-namespace mode: followed, and advisory, since the caller could
// bring another program. In setuid mode the judge decides.
#pragma once

#include <optional>
#include <string>

#include "policy/problem.h"
#include "protocol/verdict.h"

namespace postern::cli {

// Asks postern-keys about the image at `path` where the list is activated: checking signatures
// takes libraries that no other start shall load. `image`: the image as it was opened, -1 for a
// directory. `seal`: what this start will check its blocks against. Error: the list refuses the
// image or is malformed, or it admits the image for another seal, so that the file has changed.
Outcome<> check_ecl(const std::string& path, int image, const std::optional<VerityGeometry>& seal);

}  // namespace postern::cli
