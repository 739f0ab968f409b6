#include "frontend/start/child_namespace.h"

#include <cerrno>

#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/system/child_stack.h"
#include "protocol/base/syscall.h"

namespace postern::start {
namespace {

struct Child {
  const char* file;
  const Ids* ids;
  int fd = -1;
};

// With the memory and the table of descriptors of its parent.
int open_own_namespace(void* shared) {
  Child& child = *static_cast<Child*>(shared);
  if (const int err = child.ids != nullptr ? map_single_id(*child.ids, false) : 0; err != 0) {
    ::_exit(err);
  }
  child.fd = ::open(child.file, O_RDONLY | O_CLOEXEC);
  ::_exit(child.fd < 0 ? errno : 0);
}

}  // namespace

Result<UniqueFd> make_child_namespace(int flags, const char* file, const Ids* ids) noexcept {
  constexpr int kShared = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWUSER | SIGCHLD;
  const system::ChildStack stack;
  POSTERN_TRY(require(stack.valid(), Op::kSpawn));
  Child child{file, ids};
  const pid_t pid = ::clone(open_own_namespace, stack.top(), kShared | flags, &child);
  POSTERN_TRY(require(pid > 0, Op::kSpawn));
  UniqueFd made(child.fd);
  int status = 0;
  POSTERN_TRY(require(::waitpid(pid, &status, 0) == pid, Op::kSpawn));
  POSTERN_TRY(require(made.valid(), Op::kSpawn, WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD));
  return made;
}

}  // namespace postern::start
