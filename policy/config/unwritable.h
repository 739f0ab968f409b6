// May somebody other than root change what an open file holds? The mode of the file is one half of
// the answer; whether the mount that shows it tells the truth is the other.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace postern::config {

// The mounts of this mount namespace, by id (mountinfo is proc(5)'s).
class MountTable {
 public:
  // Reads /proc/self/mountinfo. Empty (it then vouches for nothing) where that fails.
  [[nodiscard]] static MountTable read();
  // For tests: the text of a mountinfo file.
  [[nodiscard]] static MountTable parse(std::string_view text);
  // Whether the open file was opened through one of these mounts. In a mount namespace of their
  // own, users mount what they like wherever they like.
  [[nodiscard]] bool shows(int fd) const noexcept;

  // Some process has the file in question open for writing, since before it was root's: chown(2)
  // and chmod(2) take no descriptor back. Then nothing that these mounts show is unwritable.
  void note_writer() noexcept { has_writer_ = true; }

  [[nodiscard]] bool has_writer() const noexcept { return has_writer_; }

 private:
  std::vector<std::uint64_t> ids_;  // sorted
  bool has_writer_ = false;
};

// A regular file that belongs to root and that nobody else may write: by its mode (a POSIX ACL's
// mask shows there as the group's bits, acl(5)), not on FUSE, where a user's process decides what
// it holds, and shown by one of `mounts`: in a user namespace an overlay over FUSE shows a file of
// root's. That the mount is read-only is no such promise: the file may be writable elsewhere.
// Who opened the file for writing before it became root's still may: only root can ask for that
// (fcntl(2), F_SETLEASE), so the helper does, and MountTable::note_writer says what it found. Not
// seen are access rights that the mode does not show (NFSv4 ACLs) and writers on other nodes.
[[nodiscard]] bool is_unwritable(int fd, const MountTable& mounts) noexcept;

}  // namespace postern::config
