// A refusal of the helper or the judge, in words: which item, which rule of which file, the cure.
#pragma once

#include <string>

#include "frontend/plan/launch_plan.h"
#include "policy/config/site.h"
#include "policy/problem.h"
#include "protocol/refusal.h"

namespace postern::suid {

[[nodiscard]] Problem refusal_problem(const plan::LaunchPlan& plan,
                                      Refusal refusal,
                                      const config::SiteConfig& site,
                                      const std::string& site_file);

}  // namespace postern::suid
