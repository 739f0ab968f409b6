// The site's configuration, as the planner of a start wants it.
#pragma once

#include <string>

#include "frontend/plan/action.h"
#include "frontend/plan/make_plan.h"
#include "policy/problem.h"
#include "protocol/launch_request.h"

namespace postern::config {
struct SiteConfig;
}

namespace postern::cli {

plan::Site site_of(const config::SiteConfig& config);

// Whether `config` admits the image by path, group, owner and kind. Advisory in user-namespace
// mode: the caller could bring another program.
Outcome<> check_site(const config::SiteConfig& config, const plan::OpenImage& image);

// Takes from the request, with a warning for each, the capabilities that the site grants to neither
// the caller nor its groups: Apptainer starts without them. For suid mode, where the judge decides
// on what is left.
void leave_out_ungranted(const plan::Identity& caller, LaunchRequest& request);

}  // namespace postern::cli
