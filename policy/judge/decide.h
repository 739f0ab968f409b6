// The site's decision about one start. Pure: facts, request and settings in, verdict out.
#pragma once

#include <cstddef>

#include "policy/config/site.h"
#include "policy/judge/facts.h"
#include "protocol/base/result.h"
#include "protocol/launch_request.h"
#include "protocol/refusal.h"
#include "protocol/verdict.h"

namespace postern::judge {

// Applies every rule of setuid mode to a request that passed check_form, and makes the verdict that
// executes it. On a refusal `verdict` is that refusal.
[[nodiscard]] Result<Ok, Refusal> decide(const Facts& facts,
                                         const LaunchRequest& request,
                                         std::size_t descriptors,
                                         const config::SiteConfig& site,
                                         Verdict& verdict) noexcept;

// What facts.profile takes away, for a request that meets the site's own rules. The frontend asks
// in user-namespace mode.
[[nodiscard]] Result<Ok, Refusal> check_profile(const Facts& facts,
                                                const LaunchRequest& request,
                                                const config::SiteConfig& site);

// Whether the kernel may mount facts.image, which meets the site's limits and list. The frontend
// asks before it chooses between the kernel and postern-squashfs; the judge asks again.
[[nodiscard]] bool kernel_may_mount(const Facts& facts, const config::SiteConfig& site) noexcept;

// Whether the site limits which containers run: by owner, group, path or signature. Then a root
// that nobody can vouch for, because the caller owns it, is refused.
[[nodiscard]] bool limits_are_active(const config::SiteConfig& site, bool ecl_active) noexcept;

// Whether a file system that the caller serves through FUSE may be a root: it can hold a container
// of any kind, so every kind must be allowed, and no limit active.
[[nodiscard]] bool admits_any_server(const config::SiteConfig& site, bool ecl_active) noexcept;

}  // namespace postern::judge
