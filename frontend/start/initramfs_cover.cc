#include "frontend/start/initramfs_cover.h"

#include <cerrno>

#include <sys/mount.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/system/child_stack.h"
#include "protocol/base/syscall.h"

namespace postern::start {
namespace {

// With our memory and our table of descriptors, in a new user namespace and a copy of our mount
// namespace.
int open_own_mounts(void* out) {
  int& copy = *static_cast<int*>(out);
  copy = ::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  ::_exit(copy < 0 ? errno : 0);
}

Result<UniqueFd> locked_copy() noexcept {
  constexpr int kFlags =
      CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWUSER | CLONE_NEWNS | SIGCHLD;
  const system::ChildStack stack;
  POSTERN_TRY(require(stack.valid(), Op::kSpawn));
  int number = -1;
  const pid_t pid = ::clone(open_own_mounts, stack.top(), kFlags, &number);
  POSTERN_TRY(require(pid > 0, Op::kSpawn));
  UniqueFd copy(number);
  int status = 0;
  POSTERN_TRY(require(::waitpid(pid, &status, 0) == pid, Op::kSpawn));
  POSTERN_TRY(require(copy.valid(), Op::kSpawn, WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD));
  return copy;
}

}  // namespace

Result<> cover_initramfs() noexcept {
  POSTERN_TRY_ASSIGN(
      const UniqueFd tree,
      own(::open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE),
          Op::kSpawn));
  POSTERN_TRY(require(::move_mount(tree.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) == 0 &&
                          ::fchdir(tree.get()) == 0 && ::chroot(".") == 0,
                      Op::kSpawn));
  POSTERN_TRY_ASSIGN(const UniqueFd copy, locked_copy());
  // Makes the topmost mount its root and directory.
  return require(::setns(copy.get(), CLONE_NEWNS) == 0, Op::kSpawn);
}

}  // namespace postern::start
