// Guessing, without a look at a signature, whether the judge could trust an image for one: so that
// a start does not ask for what will be refused. Verifies nothing.
#pragma once

#include <string>

#include "policy/sif/reader.h"

namespace postern::ecl {

// Whether a signature of the root partition's group claims a key of the site's keyring, or one that
// names no key (a PEM key's) could be by one. `keyring` is its directory.
[[nodiscard]] bool may_be_trusted(const sif::Image& image, const std::string& keyring);

}  // namespace postern::ecl
