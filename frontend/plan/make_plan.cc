#include "frontend/plan/make_plan.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "frontend/plan/fakeroot.h"
#include "frontend/plan/planner.h"

namespace postern::plan {

Outcome<LaunchPlan> Planner::run() {
  for (const std::string& name : action_.no_mount) {
    static constexpr std::array<std::string_view, 9> kNames = {
        "proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths"};
    if (name.front() != '/' && std::find(kNames.begin(), kNames.end(), name) == kNames.end()) {
      warn("--no-mount " + name + ": there is no such mount");
    }
  }
  if (action_.keep_privileges && !is_root()) {
    return Problem{.what = "--keep-privs is for root: you have no privileges to keep",
                   .cure = "use --fakeroot to appear as root, or --add-caps"};
  }
  plan_.image_name = input_.image.path;
  plan_.share = action_.share;
  plan_.inherited = std::move(input_.inherited);
  plan_.identity = input_.caller.identity;
  plan_.fakeroot = choose_fakeroot(plan_.identity, action_.fakeroot);
  if (plan_.fakeroot != Fakeroot::kNone) {
    plan_.identity = root_identity();
  }
  POSTERN_TRY(root());
  POSTERN_TRY(layers());
  POSTERN_TRY(namespaces());
  capabilities();
  POSTERN_TRY(dev());
  POSTERN_TRY(configured_binds());
  POSTERN_TRY(kernel_file_systems());
  POSTERN_TRY(tmp());
  POSTERN_TRY(home());
  POSTERN_TRY(cwd());
  POSTERN_TRY(files());
  POSTERN_TRY(libraries());
  is_named_ = true;
  POSTERN_TRY(scratch());
  POSTERN_TRY(user_binds());
  order();
  skeleton();
  POSTERN_TRY(record());
  return std::move(plan_);
}

Outcome<LaunchPlan> make_plan(PlanInput input, std::vector<std::string>& warnings) {
  return Planner(std::move(input), warnings).run();
}

}  // namespace postern::plan
