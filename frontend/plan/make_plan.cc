#include "frontend/plan/make_plan.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "frontend/plan/builder.h"
#include "frontend/plan/devices.h"
#include "frontend/plan/fakeroot.h"
#include "frontend/plan/files.h"
#include "frontend/plan/mounts.h"
#include "frontend/plan/namespaces.h"
#include "frontend/plan/record.h"
#include "frontend/plan/root.h"

namespace postern::plan {
namespace {

Outcome<> check_options(Builder& builder) {
  static constexpr std::array<std::string_view, 9> kMounts = {
      "proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths"};
  for (const std::string& name : builder.action().no_mount) {
    if (name.front() != '/' && std::find(kMounts.begin(), kMounts.end(), name) == kMounts.end()) {
      builder.warn("--no-mount " + name + ": there is no such mount");
    }
  }
  if (builder.action().keep_privileges && !builder.is_root()) {
    return Problem{.what = "--keep-privs is for root: you have no privileges to keep",
                   .cure = "use --fakeroot to appear as root, or --add-caps"};
  }
  return Ok{};
}

void add_identity(Builder& builder) {
  LaunchPlan& plan = builder.plan();
  plan.identity = builder.caller().identity;
  plan.fakeroot = choose_fakeroot(plan.identity, builder.action().fakeroot);
  if (plan.fakeroot != Fakeroot::kNone) {
    plan.identity = root_identity();
  }
}

// ORDER: of the lines is the order in which the mounts are made, as far as no deeper one is below
// another (Builder::order).
Outcome<Inside> add_mounts(Builder& builder) {
  Inside inside;
  POSTERN_TRY(add_dev(builder));
  POSTERN_TRY(add_configured_binds(builder));
  POSTERN_TRY(add_kernel_file_systems(builder));
  POSTERN_TRY(add_tmp(builder));
  POSTERN_TRY_ASSIGN(inside.home, add_home(builder));
  POSTERN_TRY(add_cwd(builder));
  POSTERN_TRY(add_files(builder));
  POSTERN_TRY_ASSIGN(inside.variables, add_host_devices(builder));
  POSTERN_TRY(add_scratch(builder));
  POSTERN_TRY_ASSIGN(inside.bound, add_user_binds(builder));
  POSTERN_TRY(add_fuse_mounts(builder));
  builder.order();
  return inside;
}

}  // namespace

Outcome<LaunchPlan> make_plan(PlanInput input, std::vector<std::string>& warnings) {
  Builder builder(input, warnings);
  LaunchPlan& plan = builder.plan();
  POSTERN_TRY(check_options(builder));
  plan.image_name = input.image.path;
  plan.share = input.action.share;
  plan.contain = input.action.contain;
  plan.inherited = std::move(input.inherited);
  add_identity(builder);
  POSTERN_TRY(add_root(builder, input.image));
  POSTERN_TRY(add_layers(builder, std::move(input.image.overlays)));
  POSTERN_TRY(add_namespaces(builder));
  add_capabilities(builder);
  POSTERN_TRY_ASSIGN(const Inside inside, add_mounts(builder));
  POSTERN_TRY(lock_images(plan));
  add_skeleton(builder);
  POSTERN_TRY(add_record(builder, std::move(input.environment), inside));
  return std::move(plan);
}

}  // namespace postern::plan
