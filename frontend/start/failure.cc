#include "frontend/start/failure.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <time.h>

#include "frontend/message/message.h"
#include "frontend/start/id_map.h"
#include "frontend/system/initramfs.h"

namespace postern::start {
namespace {

const MountRequest* mount_of(const plan::LaunchPlan& plan, std::size_t source) {
  for (const MountRequest& mount : plan.request.mounts) {
    if (mount.descriptor && *mount.descriptor == source) {
      return &mount;
    }
  }
  return nullptr;
}

// "bind of /data to /mnt", "tmpfs at /tmp": what a person asked for.
std::string describe(const plan::LaunchPlan& plan, const MountRequest& mount) {
  const std::string target = mount.target;
  switch (mount.operation) {
    case Operation::kBind:
    case Operation::kDevice:
      return "bind of " + (mount.descriptor ? plan.sources[*mount.descriptor].path : target) +
             " to " + target;
    case Operation::kFile:
      return "generated file " + target;
    case Operation::kTmpfs:
      return "tmpfs at " + target;
    case Operation::kProc:
    case Operation::kSysfs:
    case Operation::kDevHost:
    case Operation::kDevpts:
    case Operation::kMqueue:
      break;
  }
  return "mount of " + target;
}

std::string mount_cure(const plan::LaunchPlan& plan,
                       const Failure& failure,
                       const MountRequest& mount) {
  const int err = failure.error.err;
  if (failure.error.op == Op::kTarget) {
    if (err == ENOTDIR || err == ELOOP) {
      return "a part of " + mount.target + " is not a directory in the image: bind elsewhere";
    }
    if (plan.request.writable_root) {
      return "--writable has no overlay to make mount points in: create " + mount.target +
             " in the image directory";
    }
    if (err == ENOSPC) {
      return "the session's tmpfs is full: raise `session.max-size-mib`";
    }
    return "the mount point does not exist and cannot be made: use --writable-tmpfs, or add " +
           mount.target + " to the image";
  }
  if (mount.operation == Operation::kFile && err == ENOSPC) {
    return "the session's tmpfs is full: raise `session.max-size-mib`";
  }
  if (err == ENOTDIR || (err == EINVAL && failure.error.op == Op::kMount && mount.descriptor)) {
    return "a directory can be bound only on a directory, a file only on a file";
  }
  return {};
}

Problem item_problem(const plan::LaunchPlan& plan, const Failure& failure) {
  const MountRequest& mount = plan.request.mounts[failure.error.item];
  return system_problem(describe(plan, mount), failure.error.err, mount_cure(plan, failure, mount));
}

Problem root_problem(const plan::LaunchPlan& plan, const Failure& failure) {
  const int err = failure.error.err;
  std::string cure;
  if (err == ENODEV) {
    cure = failure.error.op == Op::kOverlay
               ? "the kernel has no overlayfs: load the module (modprobe overlay)"
               : "the kernel has no FUSE: load the module (modprobe fuse), or run from a directory";
  } else if (err == EPERM || err == EACCES) {
    cure = user_namespace_cure(err);
  } else if (err == EIO || err == EINVAL) {
    cure = "the image is damaged: copy or build it again";
  } else if (err == EBUSY && failure.error.op == Op::kOverlay) {
    cure = "a directory below which something is mounted cannot be a layer: bind it instead";
  }
  return system_problem(
      (failure.error.op == Op::kOverlay ? "mounting the overlay over " : "mounting ") +
          plan.image_name,
      err, std::move(cure));
}

Problem build_problem(const plan::LaunchPlan& plan, const Failure& failure) {
  switch (failure.error.op) {
    case Op::kTarget:
    case Op::kMount:
      if (failure.error.item < plan.request.mounts.size()) {
        return item_problem(plan, failure);
      }
      break;
    case Op::kFurnish:
      return system_problem("mounting the /proc or /sys of a new namespace", failure.error.err,
                            failure.error.err == EPERM
                                ? "an outer container hides parts of them, so the kernel forbids "
                                  "new ones: leave out --pid and --net"
                                : "");
    case Op::kMountRoot:
    case Op::kOverlay:
      return root_problem(plan, failure);
    case Op::kSession:
      // Only the setuid helper comes here: cover_initramfs().
      if (failure.error.err == EINVAL && system::has_initramfs_root()) {
        return Problem{.what = std::string(system::kInitramfsRoot),
                       .cure = std::string(system::kInitramfsCure)};
      }
      return system_problem("making the session's tmpfs", failure.error.err,
                            user_namespace_cure(failure.error.err));
    case Op::kHostname:
      return system_problem("setting the host name " + plan.request.hostname, failure.error.err);
    case Op::kNone:
    case Op::kStart:
    case Op::kJudge:
    case Op::kCheckVerdict:
    case Op::kSpawn:
    case Op::kLoop:
    case Op::kMapping:
    case Op::kCloneSource:
      break;
  }
  return system_problem("building the root of the container", failure.error.err);
}

Problem step_problem(const plan::LaunchPlan& plan, const Failure& failure) {
  const int err = failure.error.err;
  switch (failure.step) {
    case Step::kClone:
      return system_problem("creating a user namespace", err, user_namespace_cure(err));
    case Step::kMap:
      return system_problem("mapping ids in a user namespace", err, user_namespace_cure(err));
    case Step::kJoin:
      return system_problem("joining the user namespace of the image's server", err,
                            "try again with --no-share");
    case Step::kUnshare:
      return system_problem("creating namespaces", err, user_namespace_cure(err));
    case Step::kJoinNet:
      return system_problem("joining the network namespace " + plan.sources[failure.source].path,
                            err, "it belongs to somebody else: use --net --network none");
    case Step::kLoopback:
      return system_problem("bringing up the loopback device", err);
    case Step::kNetwork:
      return system_problem("making the container's network with " + plan.network->program, err);
    case Step::kOpen:
      return source_problem(plan, failure.source, err);
    case Step::kMount:
      return root_problem(plan, failure);
    case Step::kMerge:
      return system_problem("making " + plan.sources[failure.source].path, err);
    case Step::kCloneSources:
      if (failure.error.item < plan.request.mounts.size()) {
        return item_problem(plan, failure);
      }
      return system_problem("taking a mount of " + plan.image_name, err);
    case Step::kBuild:
      return build_problem(plan, failure);
    case Step::kControlGroup:
      return control_group_problem(err);
    case Step::kDrop:
      return system_problem("dropping capabilities", err);
    case Step::kDeadline:
      return Problem{
          .what = "the start of " + plan.image_name + " did not come to an end within 30 seconds",
          .cure =
              "a bind or the image lies on a file server that does not answer, or the image's "
              "server was stopped: try again, or leave out binds"};
    case Step::kEnded:
      return Problem{
          .what = "the process of the container ended before its program ran",
          .cure =
              "it was killed, most likely because memory is short: see the limits of the job; "
              "or the kernel refused it capabilities in its own user namespace: try "
              "`postern doctor`"};
    case Step::kExecute:
      return system_problem("executing postern-init", err,
                            err == ENOEXEC ? "it is built for another architecture" : "");
  }
  return system_problem("starting the container", err);
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

Problem control_group_problem(int err) {
  return system_problem("moving the payload into its control group", err,
                        err == ENODEV || err == ENOENT
                            ? "somebody has removed it, or a start in another container did"
                            : "its parent must belong to you as well: leave the limits out");
}

bool is_optional(const plan::LaunchPlan& plan, std::size_t source) noexcept {
  const MountRequest* const mount = mount_of(plan, source);
  return mount != nullptr && (mount->flags & kOptional) != 0;
}

Problem source_problem(const plan::LaunchPlan& plan, std::size_t source, int err) {
  const std::string& path = plan.sources[source].path;
  const MountRequest* const mount = mount_of(plan, source);
  if (mount == nullptr) {
    return system_problem("opening " + path, err);
  }
  return system_problem("bind source " + path + " (for " + mount->target + ")", err,
                        err == ENOENT ? "create it, or correct --bind" : "");
}

Problem refusal_problem(const plan::LaunchPlan& plan, const Refusal& refusal) {
  if (refusal.code == RefusalCode::kDescriptorCount) {
    return Problem{.what = "too many binds, layers and files: at most " +
                           std::to_string(kMaxDescriptors) + " sources fit a start",
                   .cure = "bind a common parent directory instead"};
  }
  if (refusal.item < plan.request.mounts.size() && !plan.request.mounts.empty()) {
    return Problem{
        .what = describe(plan, plan.request.mounts[refusal.item]) +
                " is not possible: too long, too many, or not an absolute path without ..",
        .cure = "at most " + std::to_string(kMaxOperations) + " mounts with " +
                std::to_string(kArenaBytes) + " bytes of paths fit a start"};
  }
  return Problem{.what = "the options of this start do not fit together"};
}

Problem payload_problem(const plan::LaunchPlan& plan,
                        const Failure& failure,
                        const std::string& last_words) {
  if (!last_words.empty() && (failure.step == Step::kMount || failure.step == Step::kBuild)) {
    std::string line = first_line(last_words);
    for (const std::string_view label : {"FATAL:   ", "ERROR:   "}) {
      if (line.starts_with(label)) {
        line.erase(0, label.size());
      }
    }
    return Problem{.what = "image " + plan.image_name + " cannot be read: " + line};
  }
  if (failure.error.err == ENOTCONN && is_lost_server(failure)) {
    return Problem{.what = "image " + plan.image_name + ": its server has ended without a word",
                   .cure = std::string(kServerMemoryCure)};
  }
  if (!last_words.empty() && failure.step == Step::kNetwork) {
    return Problem{.what = "the container's network: " + plan.network->program + ": " + last_words,
                   .cure = "use --network none, or leave out --net to share the host's network"};
  }
  return step_problem(plan, failure);
}

bool is_lost_server(const Failure& failure) noexcept {
  switch (failure.step) {
    case Step::kJoin:
      return true;
    case Step::kMount:
    case Step::kBuild:
      // ENOTCONN: the connection has ended. EINVAL: it was being mounted for the first time just
      // then (fs/fuse/inode.c, fuse_fill_super).
      return failure.error.err == ENOTCONN || failure.error.err == ECONNABORTED ||
             (failure.error.err == EINVAL && failure.error.op == Op::kMountRoot);
    case Step::kClone:
    case Step::kMap:
    case Step::kUnshare:
    case Step::kJoinNet:
    case Step::kLoopback:
    case Step::kNetwork:
    case Step::kOpen:
    case Step::kMerge:
    case Step::kCloneSources:
    case Step::kControlGroup:
    case Step::kDrop:
    case Step::kExecute:
    case Step::kDeadline:
    case Step::kEnded:
      break;
  }
  return false;
}

void pause_after_lost_server(int tries) noexcept {
  constexpr long kFirstNanoseconds = 1'000'000;
  const timespec pause{.tv_sec = 0, .tv_nsec = kFirstNanoseconds << std::min(tries, 4)};
  ::nanosleep(&pause, nullptr);
}

}  // namespace postern::start
