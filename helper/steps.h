// The steps of the setuid program that are more than a few calls. main.cc says in which order.
#pragma once

#include "protocol/base/process.h"
#include "protocol/judge_input.h"
#include "protocol/refusal_helper.h"
#include "protocol/verdict_check.h"

namespace postern::helper {

// The frontend's socketpair. Request descriptor i has the number kJudgeDescriptorBase + i here as
// well, and in the payload's process while it waits.
inline constexpr int kSocket = 3;

// An error without errno is a refusal: `item` is its code.
inline Error refuse(HelperRefusal code) noexcept {
  return Error{.item = static_cast<std::uint16_t>(code)};
}

// Ids to take: `saved` is the saved user id, 0 to come back for a moment. And the process that must
// be the parent of who takes them.
struct Ids {
  uid_t uid, saved;
  gid_t gid;
  pid_t parent;
};

// Closes every descriptor from `first` on. False if one is left.
bool close_from(int first) noexcept;

// Raises what resource limits of the caller's could end or starve a privileged step with; the
// payload's process sets them again. `item`: of a refusal (kLimit), which limit.
Result<> lift_limits(std::uint32_t& item) noexcept;

// Takes the ids, keeping `kept` of the capabilities, `effective` of these. The process is
// undumpable and ends with its parent. Proved by reading back; a failure ends the process.
void take_ids(const Ids& ids, std::uint64_t kept, std::uint64_t effective) noexcept;

// Runs the judge on the request as the judge's own user and reads its verdict, which nothing has
// checked yet. Refuses: kJudgeUser, kJudgeFailed.
Result<> ask_judge(const Ids& caller, std::size_t descriptors, Verdict& verdict) noexcept;

// Refuses (kCeiling) a capability that root does not let anybody grant on this node.
Result<> check_grantable(const Plan& plan) noexcept;

struct Child {
  UniqueFd process;  // pidfd
  UniqueFd channel;  // says when its namespaces are furnished; the mount id of its new root
                     // releases it, closing ends it
  pid_t pid = -1;    // a child of the frontend
};

// The payload's process: in its new namespaces, which are charged to the caller and which it
// furnishes, then without any privilege, waiting.
Result<Child> spawn_payload_child(const Plan& plan, const Ids& caller) noexcept;

struct Device {
  UniqueFd fd;  // keeps it alive until it is mounted
  Text path;
};

// Loop, verity and crypt devices of an image root, read-only, each gone with its last user; an
// empty path for other roots.
Result<Device> make_devices(const Plan& plan, std::span<UniqueFd> descriptors) noexcept;

}  // namespace postern::helper
