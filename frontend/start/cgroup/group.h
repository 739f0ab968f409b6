// The control group of a payload. Below the group in which this process runs there is a room of
// ours, and in it a group for each start that asked for limits:
//
//     G/                     our own group; must belong to the user, who has been given it
//     G/postern/             the room; locked (flock(2)) while anybody changes something here
//     G/postern/self/        the processes that were in G: a group with limits below it holds none
//                            itself (cgroups(7), "no internal processes")
//     G/postern/4711-0/      limits and the payload; locked by the front end as long as it lives
//
// The last start that goes puts G back as it was. A front end that is killed leaves an empty group
// that nobody has locked: every later start removes those.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "frontend/start/cgroup/place.h"
#include "frontend/start/cgroup/resources.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start::cgroup {

class Group {
 public:
  // A new group with these limits, without processes.
  static Outcome<Group> make(std::span<const Setting> settings);

  Group(Group&&) = default;
  Group& operator=(Group&&) = delete;

  ~Group() { remove(); }

  // Of this group's cgroup.procs: "0" written to it moves the writer here.
  Outcome<UniqueFd> open_procs() const;

  // How many processes the kernel has ended in it because memory was short.
  [[nodiscard]] unsigned long killed_for_memory() const;

  // Unless processes are left in it: they keep their limits, and a later start removes it.
  void remove() noexcept;

 private:
  Group(std::string room, std::string name, UniqueFd directory)
      : room_(std::move(room)), name_(std::move(name)), directory_(std::move(directory)) {}

  std::string room_;
  std::string name_;
  UniqueFd directory_;  // holds the lock
};

}  // namespace postern::start::cgroup
