#include "frontend/system/initramfs.h"

#include <optional>
#include <string>

#include <linux/magic.h>
#include <sys/vfs.h>

#include "frontend/system/read_file.h"

namespace postern::system {

// The type has this name in the kernel's first mount alone, and that is listed only where a process
// has it for its root; what binds show of it has another place.
bool has_initramfs_root(std::string_view mountinfo) noexcept {
  for (std::size_t at = 0; at < mountinfo.size();) {
    const std::string_view line = mountinfo.substr(at, mountinfo.find('\n', at) - at);
    at += line.size() + 1;
    // Root and mount point are the fourth and fifth word, and no word holds a blank.
    if (line.find(" - rootfs ") != line.npos && line.find(" / / ") != line.npos) {
      return true;
    }
  }
  return false;
}

bool has_initramfs_root() {
  struct statfs info = {};
  // Most nodes need no look at a list that may be long.
  if (::statfs("/", &info) != 0 || (info.f_type != RAMFS_MAGIC && info.f_type != TMPFS_MAGIC)) {
    return false;
  }
  const std::optional<std::string> mounts = read_small_file("/proc/self/mountinfo");
  return mounts && has_initramfs_root(*mounts);
}

}  // namespace postern::system
