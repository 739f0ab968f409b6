// Namespaces below the user namespace of this process.
#pragma once

#include "frontend/start/id_map.h"
#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// Makes the namespaces of `flags` (CLONE_NEW…) and a user namespace that owns them, as clone(2)
// does for a child that ends at once. Returns what `file` ("/proc/self/ns/…") is there. `ids`:
// mapped to themselves; null: none is. Allocates nothing.
Result<UniqueFd> make_child_namespace(int flags, const char* file, const Ids* ids) noexcept;

}  // namespace postern::start
