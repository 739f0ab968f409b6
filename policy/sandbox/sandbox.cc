#include "policy/sandbox/sandbox.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>

#include <linux/audit.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <unistd.h>

#include "protocol/base/syscall.h"
#include "protocol/base/unique_fd.h"

namespace postern::sandbox {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_PPC64LE;
#elif defined(__riscv) && __riscv_xlen == 64
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_RISCV64;
#elif defined(__s390x__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_S390X;
#else
#error "name the audit architecture of this processor"
#endif

constexpr std::uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS;
constexpr std::uint16_t kAnd = BPF_ALU | BPF_AND | BPF_K;
constexpr std::uint16_t kReturn = BPF_RET | BPF_K;
constexpr std::uint16_t kEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr std::uint32_t kNumber = offsetof(seccomp_data, nr);
// Of an argument, which has 64 bits.
constexpr std::size_t kLowHalf = std::endian::native == std::endian::little ? 0 : 4;

sock_filter statement(std::uint16_t code, std::uint32_t k) noexcept {
  return {code, 0, 0, k};
}

sock_filter jump(std::uint32_t k, std::uint8_t yes, std::uint8_t no) noexcept {
  return {kEqual, yes, no, k};
}

// struct landlock_ruleset_attr of a current kernel (include/uapi/linux/landlock.h): the header of
// the baseline stops at version 3 or earlier. A kernel with a smaller one is given a smaller size.
struct LandlockRuleset {
  std::uint64_t files = 0;
  std::uint64_t network = 0;  // version 4: bind, connect
  std::uint64_t scoped = 0;   // version 6: abstract unix sockets, signals
};

}  // namespace

std::vector<sock_filter> make_filter(std::span<const Rule> rules) {
  std::vector<sock_filter> filter = {
      statement(kLoad, offsetof(seccomp_data, arch)),
      jump(kArchitecture, 1, 0),
      statement(kReturn, SECCOMP_RET_KILL_PROCESS),
      // x32 calls have bit 30 set and so equal none of the numbers below.
      statement(kLoad, kNumber),
  };
  for (const Rule& rule : rules) {
    if (rule.mask == 0) {
      filter.insert(filter.end(), {jump(rule.call, 0, 1), statement(kReturn, rule.action)});
      continue;
    }
    const auto at = static_cast<std::uint32_t>(offsetof(seccomp_data, args) + kLowHalf +
                                               sizeof(std::uint64_t) * rule.argument);
    filter.insert(filter.end(), {jump(rule.call, 0, 5), statement(kLoad, at),
                                 statement(kAnd, rule.mask), jump(rule.value, 0, 1),
                                 statement(kReturn, rule.action), statement(kLoad, kNumber)});
  }
  filter.push_back(statement(kReturn, SECCOMP_RET_KILL_PROCESS));
  return filter;
}

Result<> enter_filter(std::span<const Rule> rules) {
  std::vector<sock_filter> filter = make_filter(rules);
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  return require(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0, Op::kStart);
}

Result<> forbid_paths() noexcept {
  const long version =
      ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 1) {
    return Ok{};
  }
  constexpr std::array<unsigned, 5> kFileRights = {13, 14, 15, 15, 16};  // by version
  const auto known = static_cast<std::size_t>(std::min(version, long{kFileRights.size()}));
  const LandlockRuleset rules{.files = (std::uint64_t{1} << kFileRights[known - 1]) - 1,
                              .network = version >= 4 ? 3U : 0U,
                              .scoped = version >= 6 ? 3U : 0U};
  const std::size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
  POSTERN_TRY_ASSIGN(const UniqueFd ruleset,
                     own(::syscall(SYS_landlock_create_ruleset, &rules, size, 0U), Op::kStart));
  return require(::syscall(SYS_landlock_restrict_self, ruleset.get(), 0U) == 0, Op::kStart);
}

}  // namespace postern::sandbox
