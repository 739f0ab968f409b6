// Asking whether certificates have been revoked (OCSP, RFC 6960).
#pragma once

#include <string>
#include <vector>

#include "policy/problem.h"

namespace postern::keys {

// For a chain of DER certificates, leaf first, root last: asks the responder that each certificate
// but the root names. Error: anything but a fresh, signed answer "good" for each of them.
Outcome<Ok> check_ocsp(const std::vector<std::string>& chain);

}  // namespace postern::keys
