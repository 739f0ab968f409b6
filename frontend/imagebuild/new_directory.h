// A directory that is being made.
#pragma once

#include <string>
#include <utility>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {

// "rootfs" in a new directory beside its final name, which it gets when it is whole. Removes itself
// otherwise. The outer directory is closed to all but the caller: set-user-ID programs and device
// nodes of an image must not be within reach of others while it is built. A lock on the outer one
// (flock(2)) tells later builds that a process still owns it.
class NewDirectory {
 public:
  // `target` need not exist; its parent must. What builds that were killed left in the parent is
  // removed. Errors: the parent is missing, not writable, or no place for root to work in.
  static Outcome<NewDirectory> create(const std::string& target);

  NewDirectory(NewDirectory&& other) noexcept
      : outer_(std::exchange(other.outer_, {})),
        target_(std::move(other.target_)),
        lock_(std::move(other.lock_)) {}

  NewDirectory& operator=(NewDirectory&&) = delete;
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;
  ~NewDirectory();

  // Its present path.
  [[nodiscard]] std::string path() const { return outer_ + "/rootfs"; }

  // Gives it its name; a directory that stands there is replaced and then removed.
  Outcome<> finish();

  // Leaves it where it is (--no-cleanup); returns its path.
  std::string keep();

 private:
  NewDirectory(std::string outer, std::string target, UniqueFd lock)
      : outer_(std::move(outer)), target_(std::move(target)), lock_(std::move(lock)) {}

  Outcome<> finish_in_two_steps();

  std::string outer_;  // empty: nothing to remove
  std::string target_;
  UniqueFd lock_;
};

// Removes what killed builds of this user left in `directory`: outer directories that no process
// has locked. What cannot be removed stays, with a warning. Root of the host does nothing in a
// directory where another user could exchange names.
void remove_abandoned(const std::string& directory);

}  // namespace postern::imagebuild
