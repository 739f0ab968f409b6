// What a start is going to do, for -v and -d.
#pragma once

#include "frontend/plan/launch_plan.h"
#include "frontend/plan/plan_input.h"
#include "policy/config/site.h"

namespace postern::cli {

// -v: image, who serves it, namespaces, every mount. -d: the caller, the site's settings that are
// not the defaults, and the names of the variables too; never their values, which may be secrets.
void describe_input(const plan::PlanInput& input, const config::SiteConfig& site);
void describe_plan(const plan::LaunchPlan& plan);

}  // namespace postern::cli
