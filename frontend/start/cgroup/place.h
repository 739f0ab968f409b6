// Where this process stands among the control groups: cgroups(7), "/proc files".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::start::cgroup {

struct Place {
  std::string directory;  // of our own group, in a file system of type cgroup2
  std::string top;        // the directory where that is mounted: groups above cannot be reached
  // Controllers that version 1 holds on this host, so that version 2 does not have them.
  std::vector<std::string> of_version_1;
};

// `cgroup` is the text of /proc/self/cgroup, `mounts` of /proc/self/mountinfo.
Outcome<Place> find_place(std::string_view cgroup, std::string_view mounts);

// The same of this process.
Outcome<Place> find_place();

}  // namespace postern::start::cgroup
