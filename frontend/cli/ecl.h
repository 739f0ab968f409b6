// The execution control list in user-namespace mode: followed, and advisory, since the caller could
// bring another program. In setuid mode the judge decides.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "frontend/plan/action.h"
#include "frontend/plan/launch_plan.h"
#include "policy/config/site.h"
#include "policy/ecl/profile.h"
#include "policy/problem.h"
#include "protocol/verdict.h"

namespace postern::cli {

// The profile that an active list gives to the image at `path`; `suid`: in setuid mode, where what
// the kernel does not mount is nobody's. Error: the list does not admit the image.
Outcome<std::optional<ecl::Profile>> profile_for(const std::string& path, int image, bool suid);

// What a profile changes in a command line, with warnings for what was asked for and is not given.
void apply_profile(const ecl::Profile& profile,
                   const std::string& directory,
                   plan::Action& action,
                   std::vector<std::string>& warnings);

// The same question that the judge asks, about a plan for user-namespace mode.
Outcome<> check_profile(const ecl::Profile& profile,
                        const plan::LaunchPlan& plan,
                        const config::SiteConfig& site);

// Asks postern-keys about the image at `path` where the list is activated: checking signatures
// takes libraries that no other start shall load. `image`: the image as it was opened, -1 for a
// directory. `seal`: what this start will check its blocks against. Error: the list refuses the
// image or is malformed, or it admits the image for another seal, so that the file has changed.
// True: nobody vouches for it, and it may run boxed in.
Outcome<bool> check_ecl(const std::string& path,
                        int image,
                        const std::optional<VerityGeometry>& seal);

}  // namespace postern::cli
