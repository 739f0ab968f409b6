#include "frontend/userns/skeleton_mount.h"

#include <sys/mount.h>
#include <sys/stat.h>

#include <fcntl.h>

#include "protocol/base/mount_object.h"

namespace postern::userns {
namespace {

// The tmpfs is empty and ours alone: no link and no race can lead out of it.
bool make(int root, const plan::SkeletonEntry& entry) noexcept {
  const char* const path = entry.path.c_str() + 1;
  const int made =
      entry.directory ? ::mkdirat(root, path, 0700) : ::mknodat(root, path, S_IFREG | 0600, 0);
  return made == 0 && ::fchmodat(root, path, entry.mode, 0) == 0;  // past the umask
}

}  // namespace

Result<UniqueFd> mount_skeleton(std::span<const plan::SkeletonEntry> entries) noexcept {
  constexpr unsigned kPlain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  POSTERN_TRY_ASSIGN(UniqueFd mount,
                     new_mount("tmpfs", {{"mode", "0755"}}, kPlain, Op::kMountRoot));
  for (const plan::SkeletonEntry& entry : entries) {
    POSTERN_TRY(require(make(mount.get(), entry), Op::kMountRoot));
  }
  mount_attr frozen{.attr_set = MOUNT_ATTR_RDONLY};
  POSTERN_TRY(require(::mount_setattr(mount.get(), "", AT_EMPTY_PATH, &frozen, sizeof frozen) == 0,
                      Op::kMountRoot));
  return mount;
}

}  // namespace postern::userns
