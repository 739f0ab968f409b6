// Blocks of a sealed image that the kernel found altered. dm-verity's status is root's to read; but
// it also sends a uevent for each bad block (DM_VERITY_ERR_BLOCK_NR,
// drivers/md/dm-verity-target.c), and anybody may listen to these (netlink(7),
// NETLINK_KOBJECT_UEVENT).
#pragma once

#include <string>

#include "protocol/base/unique_fd.h"

namespace postern::suid {

class SealWatch {
 public:
  // From now on: nothing is heard of what came before. `image`: open for as long as the watch is.
  explicit SealWatch(int image) noexcept;

  // Finds the mapping over the image's loop device, by the file behind it. ORDER: while it is
  // mounted.
  void find_mapping();

  // Whether a block of it was bad since. What a very busy host has let fall is not known.
  [[nodiscard]] bool saw_bad_block() const;

 private:
  int image_;
  UniqueFd events_;
  std::string mapping_;  // "dm-0"; empty: not found
};

}  // namespace postern::suid
