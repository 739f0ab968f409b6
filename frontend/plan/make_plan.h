// From an Action to a LaunchPlan: which mounts, in which order, from where; which environment,
// directory, namespaces and capabilities. Looks at the host's files; changes nothing but making the
// directories that --workdir and --overlay ask for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontend/plan/action.h"
#include "frontend/plan/caller.h"
#include "frontend/plan/environment.h"
#include "frontend/plan/image_file.h"
#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"

namespace postern::plan {

enum class Dev : std::uint8_t { kNo, kMinimal, kHost };

// What the site's configuration says about mounts. In user-namespace mode it is followed, not
// enforced.
struct Site {
  bool proc = true;
  bool sys = true;
  Dev dev = Dev::kHost;
  bool devpts = true;
  bool home = true;
  bool tmp = true;
  bool hostfs = false;
  std::vector<std::string> binds = {"/etc/localtime", "/etc/hosts"};  // SOURCE or SOURCE:TARGET
  bool passwd = true;
  bool group = true;
  bool resolv_conf = true;
  bool user_binds = true;
  bool overlay = true;
  bool pid_namespace = true;
  bool ipc_namespace = true;
  bool uts_namespace = true;
  bool net_namespace = true;
  std::uint64_t session_bytes = 0;  // 0 = kDefaultSessionBytes
};

struct PlanInput {
  Action action;
  Caller caller;
  Site site;
  OpenImage image;
  PayloadEnvironment environment;
  std::string host_path;     // the caller's PATH, as USER_PATH inside
  std::vector<int> inherited;
  std::string init_program;  // postern-init
  std::int32_t message_level = 1;
};

// `warnings` gets sentences for message::warning. Errors name the option or path and the cure.
Outcome<LaunchPlan> make_plan(PlanInput input, std::vector<std::string>& warnings);

// Where the default bind of the caller's directory is left out: system directories, whose content
// is the image's business.
bool is_system_directory(std::string_view path);

}  // namespace postern::plan
