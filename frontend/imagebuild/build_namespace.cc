#include "frontend/imagebuild/build_namespace.h"

#include <cerrno>

#include <sched.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/plan/caller.h"
#include "frontend/plan/fakeroot.h"
#include "frontend/start/id_map.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

Problem refused(Problem problem) {
  problem.what = "building as an ordinary user needs a user namespace: " + problem.what;
  return problem;
}

Outcome<> enter_single_id(start::Ids ids) {
  if (::unshare(CLONE_NEWUSER) != 0) {
    const int err = errno;
    return refused(system_problem("creating it", err, start::user_namespace_cure(err)));
  }
  if (const int err = start::map_single_id(ids, true); err != 0) {
    return refused(system_problem("mapping ids in it", err, start::user_namespace_cure(err)));
  }
  return {};
}

}  // namespace

Outcome<> enter_build_namespace(const NamespaceOptions& options) {
  if (::geteuid() == 0) {
    return {};
  }
  const start::Ids ids{::getuid(), ::getgid()};
  const plan::Identity caller = plan::read_caller().identity;
  if (options.ignore_subordinate_ids ||
      plan::choose_fakeroot(caller, true) != plan::Fakeroot::kSubordinate) {
    if (options.say) {
      message::info("No subordinate ids: files of the programs of this build all become root's");
    }
    return enter_single_id(ids);
  }
  auto made = start::make_subordinate_namespace(ids);
  if (!made) {
    return refused(std::move(made).error());
  }
  if (::setns(made->get(), CLONE_NEWUSER) != 0) {
    return refused(system_problem("entering it", errno));
  }
  return {};
}

}  // namespace postern::imagebuild
