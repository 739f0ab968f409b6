// Capability sets of the calling process.
#pragma once

#include <cstdint>

namespace postern::system {

// Empties the capability sets of the calling process except for `keep`, for good: bounding set
// too, and no_new_privs. Returns 0 or errno.
int drop_capabilities(std::uint64_t keep) noexcept;

}  // namespace postern::system
