#include "frontend/start/initramfs_cover.h"

#include <sys/mount.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "frontend/start/child_namespace.h"
#include "protocol/base/syscall.h"

namespace postern::start {
Result<> cover_initramfs() noexcept {
  POSTERN_TRY_ASSIGN(
      const UniqueFd tree,
      own(::open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE),
          Op::kSpawn));
  POSTERN_TRY(require(::move_mount(tree.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) == 0 &&
                          ::fchdir(tree.get()) == 0 && ::chroot(".") == 0,
                      Op::kSpawn));
  POSTERN_TRY_ASSIGN(const UniqueFd copy,
                     make_child_namespace(CLONE_NEWNS, "/proc/self/ns/mnt", nullptr));
  // Makes the topmost mount its root and directory.
  return require(::setns(copy.get(), CLONE_NEWNS) == 0, Op::kSpawn);
}

}  // namespace postern::start
