// Which kind of fake root this host gives the caller.
#pragma once

#include <string_view>

#include "frontend/plan/identity.h"
#include "frontend/plan/launch_plan.h"

namespace postern::plan {

// kSubordinate where /etc/subuid and /etc/subgid list the caller and newuidmap(1) and newgidmap(1)
// are installed; else kRootMapped.
Fakeroot choose_fakeroot(const Identity& caller);

// Does this text of subuid(5) or subgid(5) give `caller` (by name or uid) a range?
bool lists_range(std::string_view text, const Identity& caller);

// Who the caller is inside.
Identity root_identity();

}  // namespace postern::plan
