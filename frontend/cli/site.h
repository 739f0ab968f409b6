// The site's configuration, as the planner of a start wants it.
#pragma once

#include <string>

#include "frontend/plan/action.h"
#include "frontend/plan/make_plan.h"
#include "policy/problem.h"

namespace postern::config {
struct SiteConfig;
}

namespace postern::cli {

plan::Site site_of(const config::SiteConfig& config);

// Whether `config` admits the image by path, group, owner and kind. Advisory in user-namespace
// mode: the caller could bring another program.
Outcome<> check_site(const config::SiteConfig& config, const plan::OpenImage& image);

}  // namespace postern::cli
