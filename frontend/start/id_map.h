// User-namespace identity maps (user_namespaces(7)).
#pragma once

#include <sys/types.h>

#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// Who the caller is outside, read before any namespace is made.
struct Ids {
  uid_t uid = 0;
  gid_t gid = 0;
};

// In a process that has just entered a new user namespace: maps the one id, to itself or to root,
// and denies setgroups(2), which keeps the supplementary groups. Allocates nothing. Returns 0 or
// errno.
int map_single_id(Ids outside, bool as_root) noexcept;

// A user namespace with the one id mapped, to itself or to root.
Outcome<UniqueFd> make_single_id_namespace(Ids outside, bool as_root);

// A user namespace with the caller mapped to root and the caller's ranges of /etc/subuid and
// /etc/subgid from 1 upwards, written by newuidmap(1) and newgidmap(1). The descriptor keeps it.
Outcome<UniqueFd> make_subordinate_namespace(Ids outside);

// For a caller whom system::may_map_all_ids() lets: a user namespace in which each id is what it is
// in the present one. Root's container can so own files as any user, and is still without the
// capabilities that reach past its namespaces (capabilities(7)).
Outcome<UniqueFd> make_all_ids_namespace();

// What to tell somebody whose clone(CLONE_NEWUSER) failed with `err`: which switch of this host
// forbids it.
std::string user_namespace_cure(int err);

}  // namespace postern::start
