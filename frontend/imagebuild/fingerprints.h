// `Fingerprints:` of a definition file.
#pragma once

#include <string>
#include <vector>

#include "policy/problem.h"

namespace postern::imagebuild {

// Error: the SIF that `fd` (borrowed) has open is not signed by each of these keys (40 lower-case
// hexadecimal digits), or what they signed has changed.
Outcome<> check_fingerprints(int fd, const std::vector<std::string>& fingerprints);

}  // namespace postern::imagebuild
