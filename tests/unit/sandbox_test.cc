// Filters of policy/sandbox, compared with what libseccomp makes of the same rules.
#include "policy/sandbox/sandbox.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <type_traits>
#include <vector>

#include <linux/audit.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <seccomp.h>
#include <unistd.h>

#include "policy/judge/sandbox.h"
#include "protocol/base/unique_fd.h"
#include "tests/unit/in_child.h"

using postern::UniqueFd;
using postern::judge::sandbox_rules;
using postern::sandbox::make_filter;
using postern::sandbox::Rule;

namespace {

constexpr std::uint32_t kKill = SECCOMP_RET_KILL_PROCESS;
#ifdef __x86_64__
constexpr std::uint32_t kHere = AUDIT_ARCH_X86_64;
#else
constexpr std::uint32_t kHere = AUDIT_ARCH_AARCH64;
#endif
constexpr std::array<std::uint32_t, 3> kArchitectures = {kHere, AUDIT_ARCH_I386, AUDIT_ARCH_ARM};
constexpr std::uint32_t kX32 = 0x40000000;

// What a program decides of a call (bpf(4) as far as both generators use it). A thread that is
// killed is a process that is.
std::uint32_t decide(const std::vector<sock_filter>& program, const seccomp_data& data) {
  std::uint32_t accumulator = 0;
  for (std::size_t at = 0; at < program.size(); ++at) {
    const sock_filter& one = program[at];
    const auto jump = [&](bool yes) { at += yes ? one.jt : one.jf; };
    switch (one.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        REQUIRE(one.k + sizeof accumulator <= sizeof data);
        std::memcpy(&accumulator, reinterpret_cast<const char*>(&data) + one.k, sizeof accumulator);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= one.k;
        break;
      case BPF_JMP | BPF_JA:
        at += one.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        jump(accumulator == one.k);
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        jump(accumulator >= one.k);
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        jump(accumulator > one.k);
        break;
      case BPF_RET | BPF_K:
        return one.k == SECCOMP_RET_KILL_THREAD ? kKill : one.k;
      default:
        FAIL("an instruction that no filter of ours has: ", one.code);
    }
  }
  FAIL("a program without an end");
  return 0;
}

std::vector<sock_filter> by_libseccomp(const std::vector<Rule>& rules) {
  const std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, decltype(&seccomp_release)> filter(
      seccomp_init(SCMP_ACT_KILL_PROCESS), &seccomp_release);
  for (const Rule& rule : rules) {
    const std::uint32_t action = rule.action == SECCOMP_RET_ALLOW
                                     ? SCMP_ACT_ALLOW
                                     : SCMP_ACT_ERRNO(rule.action & SECCOMP_RET_DATA);
    const scmp_arg_cmp condition{.arg = rule.argument,
                                 .op = SCMP_CMP_MASKED_EQ,
                                 .datum_a = rule.mask,
                                 .datum_b = rule.value};
    REQUIRE(seccomp_rule_add_array(filter.get(), action, static_cast<int>(rule.call),
                                   rule.mask == 0 ? 0 : 1, &condition) == 0);
  }
  const UniqueFd file(::memfd_create("filter", MFD_CLOEXEC));
  REQUIRE(seccomp_export_bpf(filter.get(), file.get()) == 0);
  std::vector<sock_filter> program(4096);
  const ssize_t bytes =
      ::pread(file.get(), program.data(), program.size() * sizeof(sock_filter), 0);
  REQUIRE(bytes > 0);
  program.resize(static_cast<std::size_t>(bytes) / sizeof(sock_filter));
  return program;
}

// Values that a rule tells apart, and their neighbours.
std::set<std::uint64_t> values_of(const std::vector<Rule>& rules) {
  std::set<std::uint64_t> values = {0, 1, 2, 3, ~0U, ~std::uint64_t{0}};
  for (const Rule& rule : rules) {
    for (const std::uint64_t value : {rule.value, rule.mask, rule.value | rule.mask}) {
      values.insert({value, value + 1, value - 1, ~value, value | 1ULL << 32, value << 32});
    }
  }
  return values;
}

void compare(const std::vector<Rule>& rules) {
  const auto ours = make_filter(rules);
  const auto theirs = by_libseccomp(rules);
  const auto values = values_of(rules);
  std::size_t different = 0;
  std::size_t allowed = 0;
  for (std::uint32_t call = 0; call < 600; ++call) {
    for (const std::uint32_t number : {call, call | kX32}) {
      for (const std::uint32_t architecture : kArchitectures) {
        for (std::size_t argument = 0; argument < 3; ++argument) {
          for (const std::uint64_t value : values) {
            seccomp_data data = {};
            data.nr = static_cast<int>(number);
            data.arch = architecture;
            data.args[argument] = value;
            const std::uint32_t decided = decide(ours, data);
            different += decided != decide(theirs, data) ? 1 : 0;
            allowed += decided == SECCOMP_RET_ALLOW ? 1 : 0;
            if (decided != kKill && (number != call || architecture != kHere)) {
              ++different;
            }
          }
        }
      }
    }
  }
  CHECK(different == 0);
  CHECK(allowed > 0);
}

bool allows(const std::vector<sock_filter>& program, long call, std::uint64_t first = 0) {
  seccomp_data data = {};
  data.nr = static_cast<int>(call);
  data.arch = kHere;
  data.args[0] = first;
  return decide(program, data) == SECCOMP_RET_ALLOW;
}

}  // namespace

TEST_SUITE("policy/sandbox") {
  TEST_CASE("the judge's list decides as libseccomp's filter of it, call by call") {
    compare(sandbox_rules({.verdict = 4, .logs = {7, 9}}));
    compare(sandbox_rules({.verdict = 3, .logs = {-1, -1}}));
  }

  TEST_CASE("conditions of one call add up, and what none fits ends the process") {
    compare({{.call = SYS_fcntl, .argument = 1, .mask = ~0U, .value = F_GETFL},
             {.call = SYS_fcntl, .argument = 1, .mask = ~0U, .value = F_GETFD},
             {.call = SYS_clone, .argument = 0, .mask = 0x10000, .value = 0x10000},
             {.call = SYS_openat, .action = SECCOMP_RET_ERRNO | EACCES},
             {.call = SYS_read}});
    const auto none = make_filter({});
    for (long call = 0; call < 600; ++call) {
      CHECK_FALSE(allows(none, call));
    }
  }

  TEST_CASE("the judge answers and logs on its own descriptors, and starts and opens nothing") {
    const auto filter = make_filter(sandbox_rules({.verdict = 4, .logs = {7, -1}}));
    CHECK(allows(filter, SYS_write, 4));
    CHECK(allows(filter, SYS_sendto, 7));
    for (const std::uint64_t fd : {0, 1, 2, 3, 5, 7}) {
      CHECK_FALSE(allows(filter, SYS_write, fd));
    }
    for (const std::uint64_t fd : {std::uint64_t{4}, std::uint64_t{8}, std::uint64_t{~0U}}) {
      CHECK_FALSE(allows(filter, SYS_sendto, fd));
    }
    for (const long call : {SYS_execve, SYS_execveat, SYS_clone, SYS_clone3, SYS_openat, SYS_socket,
                            SYS_connect, SYS_ptrace, SYS_kill, SYS_prctl, SYS_setresuid,
                            SYS_pidfd_getfd, SYS_process_vm_writev, SYS_bpf, SYS_sendmsg}) {
      CHECK_FALSE(allows(filter, call));
    }
  }

  TEST_CASE("the kernel takes the filter, and does what it says") {
    const auto ended = [](auto call) {
      return in_child([call] {
        const std::array rules = {Rule{.call = SYS_exit_group}, Rule{.call = SYS_getppid},
                                  Rule{.call = SYS_openat, .action = SECCOMP_RET_ERRNO | EACCES},
                                  Rule{.call = SYS_dup, .argument = 0, .mask = ~0U, .value = 1}};
        if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
            !postern::sandbox::forbid_paths().has_value() ||
            !postern::sandbox::enter_filter(rules).has_value()) {
          return 99;
        }
        return call();
      });
    };
    CHECK(WEXITSTATUS(ended([] { return ::getppid() > 0 ? 5 : 6; })) == 5);
    CHECK(WEXITSTATUS(ended([] {
            return ::syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY, 0) < 0 && errno == EACCES ? 5 : 6;
          })) == 5);
    CHECK(WEXITSTATUS(ended([] { return ::dup(1) >= 0 || errno == EBADF ? 5 : 6; })) == 5);
    CHECK(WTERMSIG(ended([] { return ::dup(0); })) == SIGSYS);
    CHECK(WTERMSIG(ended([] { return static_cast<int>(::getuid()); })) == SIGSYS);
  }
}
