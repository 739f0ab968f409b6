// Executes a LaunchPlan through the setuid helper.
#pragma once

#include <optional>
#include <string>

#include "frontend/plan/launch_plan.h"
#include "frontend/start/attendant.h"
#include "frontend/suid/accounts.h"
#include "policy/config/site.h"
#include "policy/problem.h"

namespace postern::suid {

// Why this start does not go through the helper, in words for `--verbose`; empty where it does.
// `site` are the settings as the caller reads them: the judge reads its own.
[[nodiscard]] std::string reason_against(const plan::LaunchPlan& plan,
                                         const config::SiteConfig& site);

// Whether the site installed the helper, setuid root, and lets it be used: then a start that takes
// the other mode is worth a word.
[[nodiscard]] bool is_offered(const config::SiteConfig& site);

// Where the site installed the helper, its settings must be there: without them nobody knows what
// the site forbids. Root needs no helper.
[[nodiscard]] Outcome<> require_settings(const std::string& site_file);

// Whether the helper could be used at all on this host, by this user: for `doctor` as well.
[[nodiscard]] std::string reason_against(const config::SiteConfig& site);

// Starts the container and waits for it, as userns::launch does. `site_file` is the file that
// `site` came from, for messages; `accounts` those of the root image, where reading them was begun
// before. Error: what failed, or which rule of which file refused, with the cure.
[[nodiscard]] Outcome<int> launch(plan::LaunchPlan plan,
                                  const config::SiteConfig& site,
                                  const std::string& site_file,
                                  std::optional<ImageAccounts> accounts,
                                  start::Attendant* attendant = nullptr);

}  // namespace postern::suid
