#include <cerrno>

#include <linux/capability.h>

#include <sched.h>

#include "frontend/plan/host_path.h"
#include "frontend/plan/planner.h"

namespace postern::plan {
namespace {

constexpr std::uint64_t kAllCapabilities = (std::uint64_t{1} << (CAP_LAST_CAP + 1)) - 1;

}  // namespace

Outcome<> Planner::namespaces() {
  const auto want = [&](bool asked, bool allowed, std::uint32_t flag, const char* option) {
    if (asked && !allowed) {
      warn(std::string(option) +
           " is not allowed by the site's configuration: the host's is shared");
    } else if (asked) {
      plan_.request.namespaces |= flag;
    }
    return asked && allowed;
  };
  const Site& site = input_.site;
  action_.pid = want(action_.pid, site.pid_namespace, CLONE_NEWPID, "--pid");
  action_.ipc = want(action_.ipc, site.ipc_namespace, CLONE_NEWIPC, "--ipc");
  action_.uts = want(action_.uts, site.uts_namespace, CLONE_NEWUTS, "--uts");
  // Not shared instead, as the others are: a job that asked for no network must not have one.
  if (action_.network == Network::kNone && !site.net_namespace) {
    return Problem{.what = "--net is not allowed by the site's configuration (allow.net-namespace)",
                   .cure = "leave out --net; the host's network is shared then"};
  }
  want(action_.network == Network::kNone, true, CLONE_NEWNET, "--net");
  if (action_.uts) {
    plan_.request.hostname = action_.hostname;
  }
  if (action_.network_namespace.empty()) {
    return Ok{};
  }
  const std::string path = absolute_path(action_.network_namespace, input_.caller.directory);
  if (!exists(path)) {
    return system_problem("--netns-path " + path, errno,
                          "name the file of a network namespace, as `ip netns` makes");
  }
  POSTERN_TRY_ASSIGN(plan_.request.join_net,
                     add_source({.kind = Source::Kind::kPath, .path = path}));
  return Ok{};
}

void Planner::capabilities() {
  std::uint64_t set = 0;
  if ((is_root() || plan_.fakeroot != Fakeroot::kNone) && !action_.no_privileges) {
    set = kAllCapabilities;
  }
  plan_.request.capabilities = (set | action_.add_capabilities) & ~action_.drop_capabilities;
}

}  // namespace postern::plan
