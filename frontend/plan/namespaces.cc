#include "frontend/plan/namespaces.h"

#include <cerrno>

#include <linux/capability.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <sched.h>

#include "frontend/plan/bind.h"
#include "frontend/plan/host_path.h"
#include "frontend/plan/network.h"

namespace postern::plan {
namespace {

constexpr std::uint64_t kAllCapabilities = (std::uint64_t{1} << (CAP_LAST_CAP + 1)) - 1;

}  // namespace

Outcome<> add_namespaces(Builder& builder) {
  const Action& action = builder.action();
  LaunchRequest& request = builder.plan().request;
  const Site& site = builder.site();
  const auto want = [&](bool asked, bool allowed, std::uint32_t flag, const char* option) {
    if (asked && !allowed) {
      builder.warn(std::string(option) +
                   " is not allowed by the site's configuration: the host's is shared");
    } else if (asked) {
      request.namespaces |= flag;
    }
  };
  want(action.pid, site.pid_namespace, CLONE_NEWPID, "--pid");
  want(action.ipc, site.ipc_namespace, CLONE_NEWIPC, "--ipc");
  want(action.uts, site.uts_namespace, CLONE_NEWUTS, "--uts");
  // Not shared instead, as the others are: a job that asked for no network must not have one.
  if (action.network != Network::kHost && !site.net_namespace) {
    return Problem{.what = "--net is not allowed by the site's configuration (allow.net-namespace)",
                   .cure = "leave out --net; the host's network is shared then"};
  }
  want(action.network != Network::kHost, true, CLONE_NEWNET, "--net");
  if (action.network == Network::kCarried) {
    POSTERN_TRY_ASSIGN(builder.plan().network,
                       find_carried_network(action.network_name, action.network_arguments));
  }
  if ((request.namespaces & CLONE_NEWUTS) != 0) {
    request.hostname = action.hostname;
  }
  if (action.network_namespace.empty()) {
    return Ok{};
  }
  constexpr const char* kCure = "name the file of a network namespace, as `ip netns` makes";
  const std::string path = absolute_path(action.network_namespace, builder.caller().directory);
  struct statfs on{};
  if (::statfs(path.c_str(), &on) != 0) {
    return path_problem("--netns-path " + path, errno, kCure);
  }
  if (on.f_type != NSFS_MAGIC) {  // never opened: that may wait, or do something
    return Problem{.what = "--netns-path " + path + ": it is no namespace", .cure = kCure};
  }
  POSTERN_TRY_ASSIGN(request.join_net,
                     builder.add_source({.kind = Source::Kind::kPath, .path = path}));
  return Ok{};
}

void add_capabilities(Builder& builder) {
  const Action& action = builder.action();
  std::uint64_t set = 0;
  if ((builder.is_root() || builder.plan().fakeroot != Fakeroot::kNone) && !action.no_privileges) {
    set = kAllCapabilities;
  }
  builder.plan().request.capabilities = (set | action.add_capabilities) & ~action.drop_capabilities;
}

}  // namespace postern::plan
