#include "policy/judge/sandbox.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <type_traits>

#include <linux/landlock.h>
#include <linux/nsfs.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <seccomp.h>
#include <unistd.h>

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

// All rights of file systems, network and scope that the running kernel knows are handled, and no
// rule gives any back. linux/landlock.h of the baseline stops at version 3 or earlier: the numbers
// are the kernel's interface.
struct RulesetAttributes {
  std::uint64_t access_fs;
  std::uint64_t access_net;  // version 4
  std::uint64_t scoped;      // version 6
};

constexpr std::uint64_t file_rights(long version) {
  constexpr std::array<unsigned, 6> kBits = {0, 13, 14, 15, 15, 16};  // number of rights by version
  const auto known = static_cast<std::size_t>(version < 5 ? version : 5);
  return (std::uint64_t{1} << kBits[known]) - 1;
}

Result<> restrict_files() noexcept {
  const long version =
      ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version <= 0) {
    return Ok{};  // COMPAT: kernels without Landlock; the filter below forbids opening as well
  }
  RulesetAttributes attributes{.access_fs = file_rights(version), .access_net = 0, .scoped = 0};
  std::size_t size = sizeof attributes.access_fs;
  if (version >= 4) {
    attributes.access_net = 3;  // bind, connect
    size = 2 * sizeof attributes.access_fs;
  }
  if (version >= 6) {
    attributes.scoped = 3;  // abstract unix sockets, signals
    size = sizeof attributes;
  }
  const long ruleset = ::syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
  if (ruleset < 0) {
    return failed();
  }
  const long done = ::syscall(SYS_landlock_restrict_self, ruleset, 0);
  const int saved = errno;
  ::close(static_cast<int>(ruleset));
  return done == 0 ? Result<>(Ok{}) : Error{.err = saved, .op = Op::kJudge};
}

// With no condition on the arguments.
constexpr std::array kPlain = std::to_array<int>({
    SCMP_SYS(read),        // the request, config files that are open
    SCMP_SYS(pread64),     // images: the file offset is shared with the caller
    SCMP_SYS(lseek),       // libcryptsetup's size of its header copy
    SCMP_SYS(fstat),       // facts
    SCMP_SYS(newfstatat),  // glibc's fstat(3)
    SCMP_SYS(statx),       // mount ids
    SCMP_SYS(fstatfs),     // FUSE, proc and nsfs are told apart
    SCMP_SYS(readlink),    // /proc/self/fd
    SCMP_SYS(readlinkat),  // the same, on architectures without readlink(2)
    SCMP_SYS(close),
    SCMP_SYS(brk),  // memory
    SCMP_SYS(munmap),        SCMP_SYS(mremap),          SCMP_SYS(madvise),
    SCMP_SYS(futex),          // C++ statics, allocator
    SCMP_SYS(getrandom),      // OpenSSL, hash tables
    SCMP_SYS(clock_gettime),  // where the vDSO has none
    SCMP_SYS(getpid),         // the log's tag
    SCMP_SYS(exit_group),    SCMP_SYS(restart_syscall),
});

using Filter = std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, decltype(&seccomp_release)>;

bool allow_plain(scmp_filter_ctx filter) {
  for (const int call : kPlain) {
    // A call that this architecture lacks has a negative pseudo number, which libseccomp leaves
    // out.
    if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 0) != 0) {
      return false;
    }
  }
  return true;
}

bool allow_conditional(scmp_filter_ctx filter, const SandboxDescriptors& descriptors) {
  const auto fd = [](int number) {
    return scmp_arg_cmp{
        .arg = 0, .op = SCMP_CMP_EQ, .datum_a = static_cast<scmp_datum_t>(number), .datum_b = 0};
  };
  const auto argument = [](unsigned index, std::uint64_t value) {
    return scmp_arg_cmp{.arg = index, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0};
  };
  const auto without = [](unsigned index, std::uint64_t bit) {
    return scmp_arg_cmp{.arg = index, .op = SCMP_CMP_MASKED_EQ, .datum_a = bit, .datum_b = 0};
  };
  const auto allow = [&](int call, scmp_arg_cmp condition) {
    return seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 1, condition) == 0;
  };
  return allow(SCMP_SYS(write), fd(descriptors.verdict)) &&
         std::all_of(descriptors.logs.begin(), descriptors.logs.end(),
                     [&](int log) { return log < 0 || allow(SCMP_SYS(sendto), fd(log)); }) &&
         allow(SCMP_SYS(fcntl), argument(1, F_GETFL)) &&
         allow(SCMP_SYS(fcntl), argument(1, F_GET_SEALS)) &&
         allow(SCMP_SYS(ioctl), argument(1, NS_GET_NSTYPE)) &&
         // Memory that is written is never executed.
         allow(SCMP_SYS(mmap), without(2, PROT_EXEC)) &&
         allow(SCMP_SYS(mprotect), without(2, PROT_EXEC)) &&
         // Libraries that look for a file go on without it.
         seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0) == 0;
}

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

Result<> enter_sandbox(const SandboxDescriptors& descriptors) noexcept {
  POSTERN_TRY(restrict_files());
  const Filter filter(seccomp_init(SCMP_ACT_KILL_PROCESS), &seccomp_release);
  if (!filter || !allow_plain(filter.get()) || !allow_conditional(filter.get(), descriptors)) {
    return Error{.err = ENOMEM, .op = Op::kJudge};
  }
  const int loaded = seccomp_load(filter.get());
  return loaded == 0 ? Result<>(Ok{}) : Error{.err = -loaded, .op = Op::kJudge};
}

}  // namespace postern::judge
