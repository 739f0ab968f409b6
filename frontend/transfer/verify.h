// Signatures of images that were fetched or are to be sent: postern-keys checks them.
#pragma once

#include <string>

namespace postern::transfer {

// Why the signatures of the SIF `path` do not hold; "" where they do. Keys come from the site's and
// the user's keyring and from key servers.
std::string why_unverified(const std::string& path);

}  // namespace postern::transfer
