#include "frontend/userns/skeleton_mount.h"

#include <cerrno>

#include <sys/mount.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::userns {
namespace {

Error failed() noexcept {
  return Error{.err = errno, .op = Op::kMountRoot};
}

// The tmpfs is empty and ours alone: no link and no race can lead out of it.
bool make(int root, const run::SkeletonEntry& entry) noexcept {
  const char* const path = entry.path.c_str() + 1;
  const int made =
      entry.directory ? ::mkdirat(root, path, 0700) : ::mknodat(root, path, S_IFREG | 0600, 0);
  return made == 0 && ::fchmodat(root, path, entry.mode, 0) == 0;  // past the umask
}

}  // namespace

Result<UniqueFd> mount_skeleton(std::span<const run::SkeletonEntry> entries) noexcept {
  const UniqueFd context(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context.valid() || ::fsconfig(context.get(), FSCONFIG_SET_STRING, "mode", "0755", 0) != 0 ||
      ::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return failed();
  }
  UniqueFd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  if (!mount.valid()) {
    return failed();
  }
  for (const run::SkeletonEntry& entry : entries) {
    if (!make(mount.get(), entry)) {
      return failed();
    }
  }
  mount_attr frozen{.attr_set = MOUNT_ATTR_RDONLY};
  if (::mount_setattr(mount.get(), "", AT_EMPTY_PATH, &frozen, sizeof frozen) != 0) {
    return failed();
  }
  return mount;
}

}  // namespace postern::userns
