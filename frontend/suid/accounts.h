// The image's own account files, for the generated ones: in setuid mode the root is mounted by the
// helper, which reads nothing of it, so they are read beforehand.
#pragma once

#include <string>
#include <string_view>

#include "frontend/run/launch_plan.h"
#include "policy/problem.h"

namespace postern::suid {

struct Accounts {
  std::string passwd;  // empty where the image has none
  std::string group;
};

// Of a directory: read here, links followed inside it only. Of an image: read by postern-squashfs,
// which treats it as the hostile bytes that it may be. Error: the image is damaged.
Outcome<Accounts> read_accounts(const run::LaunchPlan& plan);

// Makes the generated files of the plan final: content without `merge`.
Outcome<> finish_accounts(run::LaunchPlan& plan);

// "NUMBER\n" and as many bytes, or "-\n", for each file: what postern-squashfs --accounts-fd
// writes.
Outcome<Accounts> parse_accounts(std::string_view text);

}  // namespace postern::suid
