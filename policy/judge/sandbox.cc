#include "policy/judge/sandbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <vector>

#include <linux/nsfs.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/sandbox/sandbox.h"
#include "protocol/limits.h"

namespace postern::judge {
namespace {

struct Limit {
  __rlimit_resource resource;
  rlim_t value;
};

// Upper bounds: a batch system may set smaller ones, and they stay. The judge itself fits in 100
// MiB and two seconds, with the largest tables and headers that it reads.
constexpr std::array kLimits = std::to_array<Limit>({
    {RLIMIT_CORE, 0},
    {RLIMIT_AS, 1ULL << 30},
    {RLIMIT_CPU, 15},
});

Error failed() {
  return Error{.err = errno, .op = Op::kJudge};
}

// With no condition on the arguments.
constexpr std::array kPlain = std::to_array<std::uint32_t>({
    SYS_read,        // the request, config files that are open
    SYS_pread64,     // images: the file offset is shared with the caller
    SYS_lseek,       // libcryptsetup's size of its header copy
    SYS_fstat,       // facts
    SYS_newfstatat,  // glibc's fstat(3)
    SYS_statx,       // mount ids
    SYS_fstatfs,     // FUSE, proc and nsfs are told apart
#ifdef SYS_readlink
    SYS_readlink,  // /proc/self/fd
#endif
    SYS_readlinkat,  // the same, on architectures without readlink(2)
    SYS_close,
    SYS_brk,  // memory
    SYS_munmap,        SYS_mremap,          SYS_madvise,
    SYS_futex,          // C++ statics, allocator
    SYS_getrandom,      // OpenSSL, hash tables
    SYS_clock_gettime,  // where the vDSO has none
    SYS_getpid,         // the log's tag
    SYS_exit_group,    SYS_restart_syscall,
});

constexpr std::uint32_t kWhole = ~0U;

constexpr std::array kConditional = std::to_array<sandbox::Rule>({
    {.call = SYS_fcntl, .argument = 1, .mask = kWhole, .value = F_GETFL},
    {.call = SYS_fcntl, .argument = 1, .mask = kWhole, .value = F_GET_SEALS},
    {.call = SYS_ioctl, .argument = 1, .mask = kWhole, .value = NS_GET_NSTYPE},
    // Memory that is written is never executed.
    {.call = SYS_mmap, .argument = 2, .mask = PROT_EXEC, .value = 0},
    {.call = SYS_mprotect, .argument = 2, .mask = PROT_EXEC, .value = 0},
    // Libraries that look for a file go on without it.
    {.call = SYS_openat, .action = SECCOMP_RET_ERRNO | EACCES},
});

}  // namespace

Result<> cleanse() noexcept {
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return failed();
  }
  for (const Limit& limit : kLimits) {
    rlimit both{};
    if (::getrlimit(limit.resource, &both) != 0) {
      return failed();
    }
    both.rlim_max = std::min(both.rlim_max, limit.value);
    both.rlim_cur = both.rlim_max;
    if (::setrlimit(limit.resource, &both) != 0) {
      return failed();
    }
  }
  return Ok{};
}

std::vector<sandbox::Rule> sandbox_rules(const SandboxDescriptors& descriptors) {
  std::vector<sandbox::Rule> rules;
  for (const std::uint32_t call : kPlain) {
    rules.push_back({.call = call});
  }
  rules.insert(rules.end(), kConditional.begin(), kConditional.end());
  const auto only_on = [&](std::uint32_t call, int fd) {
    if (fd >= 0) {
      rules.push_back({.call = call, .mask = kWhole, .value = static_cast<std::uint32_t>(fd)});
    }
  };
  only_on(SYS_write, descriptors.verdict);
  for (const int log : descriptors.logs) {
    only_on(SYS_sendto, log);
  }
  return rules;
}

Result<> enter_sandbox(const SandboxDescriptors& descriptors) {
  const auto judge = [](const Result<>& done) {
    return done ? Result<>(Ok{}) : Error{.err = done.error().err, .op = Op::kJudge};
  };
  POSTERN_TRY(judge(sandbox::forbid_paths()));
  return judge(sandbox::enter_filter(sandbox_rules(descriptors)));
}

}  // namespace postern::judge
