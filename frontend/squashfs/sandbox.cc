#include "frontend/squashfs/sandbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fuse.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

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

// Plain calls, the frequent ones first. What needs a look at its arguments stands in kChecked.
// clang-format off
constexpr std::array kAllowed = {
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
};
// clang-format on

// `call` is allowed where (argument & mask) == value.
struct Checked {
  std::uint32_t call;
  unsigned argument;
  std::uint32_t mask;
  std::uint32_t value;
};

constexpr std::array kChecked = std::to_array<Checked>({
    {__NR_mmap, 2, PROT_EXEC, 0},
    {__NR_mprotect, 2, PROT_EXEC, 0},
    {__NR_clone, 0, CLONE_THREAD, CLONE_THREAD},
    {__NR_ioctl, 1, ~0U, static_cast<std::uint32_t>(FUSE_DEV_IOC_CLONE)},
});

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "name the audit architecture of this processor"
#endif

sock_filter statement(std::uint16_t code, std::uint32_t k) noexcept {
  return {code, 0, 0, k};
}

sock_filter jump(std::uint16_t code, std::uint32_t k, std::uint8_t yes, std::uint8_t no) noexcept {
  return {code, yes, no, k};
}

// Written by hand, not by libseccomp: that takes 0.3 ms at every start, and the list is short.
std::vector<sock_filter> make_filter() {
  constexpr std::uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS;
  constexpr std::uint16_t kReturn = BPF_RET | BPF_K;
  constexpr std::uint16_t kEqual = BPF_JMP | BPF_JEQ | BPF_K;
  constexpr std::uint32_t kNumber = offsetof(seccomp_data, nr);
  std::vector<sock_filter> filter = {
      statement(kLoad, offsetof(seccomp_data, arch)),
      jump(kEqual, kArchitecture, 1, 0),
      statement(kReturn, SECCOMP_RET_KILL_PROCESS),
      // x32 calls have bit 30 set and so equal none of the numbers below.
      statement(kLoad, kNumber),
  };
  for (const auto call : kAllowed) {
    filter.push_back(jump(kEqual, static_cast<std::uint32_t>(call), 0, 1));
    filter.push_back(statement(kReturn, SECCOMP_RET_ALLOW));
  }
  // clone3(2) takes its flags through memory, where a filter cannot look: glibc falls back to
  // clone.
  filter.push_back(jump(kEqual, __NR_clone3, 0, 1));
  filter.push_back(statement(kReturn, SECCOMP_RET_ERRNO | ENOSYS));
  for (const Checked& check : kChecked) {
    // Little-endian: the low half of the argument comes first; the flags and commands have 32 bits.
    filter.push_back(jump(kEqual, check.call, 0, 5));
    filter.push_back(statement(kLoad, static_cast<std::uint32_t>(offsetof(seccomp_data, args) +
                                                                 std::size_t{8} * check.argument)));
    filter.push_back(statement(BPF_ALU | BPF_AND | BPF_K, check.mask));
    filter.push_back(jump(kEqual, check.value, 0, 1));
    filter.push_back(statement(kReturn, SECCOMP_RET_ALLOW));
    filter.push_back(statement(kReturn, SECCOMP_RET_KILL_PROCESS));
  }
  filter.push_back(statement(kReturn, SECCOMP_RET_KILL_PROCESS));
  return filter;
}

// struct landlock_ruleset_attr of a current kernel (include/uapi/linux/landlock.h); a kernel with a
// smaller one is given a smaller size.
struct LandlockRuleset {
  std::uint64_t files;
  std::uint64_t network;  // ABI 4
  std::uint64_t scoped;   // ABI 6: abstract unix sockets, signals
};

// No rule is added, so nothing is allowed. Where the kernel has no Landlock the filter alone
// stands: it has no call that takes a path.
Outcome<> forbid_paths() {
  const long abi = ::syscall(__NR_landlock_create_ruleset, nullptr, 0, 1U /* VERSION */);
  if (abi < 1) {
    return Ok{};
  }
  constexpr std::array<unsigned, 5> kFileRights = {13, 14, 15, 15, 16};  // bits of ABI 1 to 5
  const auto known = static_cast<std::size_t>(std::min(abi, long{kFileRights.size()}));
  LandlockRuleset rules{};
  rules.files = (1U << kFileRights[known - 1]) - 1;
  rules.network = abi >= 4 ? 3 : 0;
  rules.scoped = abi >= 6 ? 3 : 0;
  const std::size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
  const int ruleset = static_cast<int>(::syscall(__NR_landlock_create_ruleset, &rules, size, 0U));
  if (ruleset < 0) {
    return system_problem("postern-squashfs: making a Landlock ruleset", errno);
  }
  const long done = ::syscall(__NR_landlock_restrict_self, ruleset, 0U);
  const int err = errno;
  ::close(ruleset);
  if (done != 0) {
    return system_problem("postern-squashfs: entering Landlock", err);
  }
  return Ok{};
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
  POSTERN_TRY(forbid_paths());
  std::vector<sock_filter> filter = make_filter();
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  // ORDER: last: it has no call that the steps above need.
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) {
    return system_problem("postern-squashfs: entering the seccomp filter", errno);
  }
  return Ok{};
}

}  // namespace postern::squashfs
