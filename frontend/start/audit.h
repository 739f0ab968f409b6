// The audit entry of a start in user-namespace mode, where the site asks for it. It is the caller's
// own word: "proven=no". Same form as the judge's; the fields are in postern-helper(8), AUDIT.
#pragma once

#include "frontend/plan/launch_plan.h"
#include "policy/audit/record.h"

namespace postern::start {

// `refused`: by the site's list or limits, as far as this program keeps to them.
[[nodiscard]] audit::Record audit_record(const plan::LaunchPlan& plan, bool refused);

// Writes it; nobody listening is no error.
void log_start(const plan::LaunchPlan& plan, bool refused);

}  // namespace postern::start
