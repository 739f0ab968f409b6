// What a plan is made from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontend/plan/action.h"
#include "frontend/plan/caller.h"
#include "frontend/plan/environment.h"
#include "frontend/plan/image_file.h"

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
  bool fusemount = true;
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
  std::string host_path;  // the caller's PATH, as USER_PATH inside
  std::vector<int> inherited;
  std::string init_program;  // postern-init
  std::string settings;      // the directory of postern.toml: lists of libraries
  std::int32_t message_level = 1;
  std::string prompt = "Postern> ";  // of a shell inside
};

}  // namespace postern::plan
