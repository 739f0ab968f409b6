#include "frontend/squashfs/sandbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <vector>

#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "policy/sandbox/sandbox.h"

namespace postern::squashfs {
namespace {

// What a terminal, a batch system or a stray kill(1) sends. The payload is the one to react; the
// server ends with the mount, and must be there while the payload cleans up.
constexpr std::array kIgnored = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,   SIGPIPE,
                                 SIGALRM, SIGUSR1, SIGUSR2, SIGTSTP,   SIGTTIN,
                                 SIGTTOU, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF};

// One for each start that uses the mount, besides our own.
constexpr rlim_t kMaxDescriptors = 4096;
// What is said about an image is kept for those who use it: a bad one must not fill the memory.
constexpr rlim_t kMaxLogBytes = 256 * 1024;

// Plain calls, the frequent ones first. What needs a look at its arguments, and what fails instead,
// stands in kChecked.
// clang-format off
constexpr std::array kAllowed = std::to_array<std::uint32_t>({
    __NR_read, __NR_writev, __NR_pread64, __NR_futex,        // one request
    __NR_munmap, __NR_madvise, __NR_brk, __NR_mremap,        // malloc(3)
    __NR_set_robust_list, __NR_rseq, __NR_gettid,            // pthread_create(3)
    __NR_rt_sigprocmask, __NR_sched_yield, __NR_exit,
    __NR_accept4, __NR_getsockopt, __NR_recvmsg, __NR_recvfrom, __NR_sendmsg,  // handing over the mount
    __NR_fstat, __NR_close,
    __NR_getppid, __NR_getuid, __NR_nanosleep, __NR_clock_nanosleep,      // waiting for the mount
    __NR_clock_gettime, __NR_getrandom, __NR_poll, __NR_ppoll,
    __NR_restart_syscall,  // a wait of these goes on after SIGSTOP and SIGCONT, or the freezer of cgroups
    __NR_write, __NR_exit_group, __NR_rt_sigreturn,          // the last words
    __NR_rt_sigaction, __NR_getpid, __NR_tgkill,             // abort(3)
});
// clang-format on

constexpr std::array kChecked = std::to_array<sandbox::Rule>({
    {.call = __NR_mmap, .argument = 2, .mask = PROT_EXEC, .value = 0},
    {.call = __NR_mprotect, .argument = 2, .mask = PROT_EXEC, .value = 0},
    {.call = __NR_clone, .argument = 0, .mask = CLONE_THREAD, .value = CLONE_THREAD},
    // clone3(2) takes its flags through memory, where a filter cannot look: glibc falls back to
    // clone.
    {.call = __NR_clone3, .action = SECCOMP_RET_ERRNO | ENOSYS},
    {.call = __NR_ioctl,
     .argument = 1,
     .mask = ~0U,
     .value = static_cast<std::uint32_t>(FUSE_DEV_IOC_CLONE)},
});

std::vector<sandbox::Rule> rules() {
  std::vector<sandbox::Rule> out;
  for (const std::uint32_t call : kAllowed) {
    out.push_back({.call = call});
  }
  out.insert(out.end(), kChecked.begin(), kChecked.end());
  return out;
}

Outcome<> limit(__rlimit_resource_t resource, rlim_t most, const char* name) {
  rlimit now{};
  if (::getrlimit(resource, &now) != 0) {
    return system_problem(std::string("postern-squashfs: reading the limit of ") + name, errno);
  }
  const rlim_t value = std::min(most, now.rlim_max);
  const rlimit wanted{value, value};
  if (::setrlimit(resource, &wanted) != 0) {
    return system_problem(std::string("postern-squashfs: limiting ") + name, errno);
  }
  return Ok{};
}

Outcome<> close_others(std::vector<unsigned> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned next = 3;
  for (const unsigned fd : kept) {
    if (fd > next) {
      ::close_range(next, fd - 1, 0);
    }
    next = std::max(next, fd + 1);
  }
  ::close_range(next, ~0U, 0);
  // Whoever reads the caller's standard output must see its end when the payload ends, not when
  // this process does.
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || ::dup2(null, STDIN_FILENO) < 0 || ::dup2(null, STDOUT_FILENO) < 0) {
    return system_problem("postern-squashfs: opening /dev/null", errno);
  }
  if (null > STDERR_FILENO) {
    ::close(null);
  }
  return Ok{};
}

}  // namespace

Outcome<> detach(const std::vector<int>& kept) noexcept {
  ::setsid();  // fails where the starter has done it
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  for (const int signal : kIgnored) {
    ::sigaction(signal, &ignore, nullptr);
  }
  std::vector<unsigned> numbers;
  for (const int fd : kept) {
    if (fd >= 0) {
      numbers.push_back(static_cast<unsigned>(fd));
    }
  }
  return close_others(std::move(numbers));
}

Outcome<> confine(std::size_t memory_bytes) noexcept {
  POSTERN_TRY(limit(RLIMIT_CORE, 0, "core files"));
  POSTERN_TRY(limit(RLIMIT_NOFILE, kMaxDescriptors, "descriptors"));
  POSTERN_TRY(limit(RLIMIT_FSIZE, kMaxLogBytes, "the log"));
  POSTERN_TRY(limit(RLIMIT_AS, memory_bytes, "memory"));
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return system_problem("postern-squashfs: giving up privileges", errno);
  }
  if (const Result<> done = sandbox::forbid_paths(); !done) {
    return system_problem("postern-squashfs: entering Landlock", done.error().err);
  }
  // ORDER: last: it has no call that the steps above need.
  if (const Result<> done = sandbox::enter_filter(rules()); !done) {
    return system_problem("postern-squashfs: entering the seccomp filter", done.error().err);
  }
  return Ok{};
}

}  // namespace postern::squashfs
