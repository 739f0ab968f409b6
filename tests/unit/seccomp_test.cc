#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <doctest/doctest.h>
#include <unistd.h>

#include "frontend/plan/seccomp_profile.h"
#include "tests/unit/in_child.h"

using postern::plan::compile_seccomp;

namespace {

auto compile(const std::string& text, std::uint64_t capabilities = 0) {
  std::vector<std::string> warnings;
  return compile_seccomp(text, capabilities, warnings);
}

// Loads the filter into a child and returns the errno of getppid(2)-like calls made there.
int errno_under(const std::vector<std::uint8_t>& program, long number, long argument) {
  const int status = in_child([&] {
    std::vector<sock_filter> filter(program.size() / sizeof(sock_filter));
    std::memcpy(filter.data(), program.data(), program.size());
    const sock_fprog loaded{.len = static_cast<unsigned short>(filter.size()),
                            .filter = filter.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &loaded) != 0) {
      return 255;
    }
    return ::syscall(number, argument, 0, 0) < 0 ? errno : 0;
  });
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

std::string with_rules(const std::string& rules) {
  return R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[)" + rules + "]}";
}

}  // namespace

TEST_SUITE("frontend/plan seccomp") {
  TEST_CASE("a rule's action, errno and arguments are what the kernel then does") {
    auto program =
        compile(with_rules(R"({"names":["getppid","nosuchcall"],"action":"SCMP_ACT_ERRNO"})"));
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 0) == EPERM);
    CHECK(errno_under(*program, SYS_getpid, 0) == 0);

    program = compile(with_rules(R"({"name":"getppid","action":"SCMP_ACT_ERRNO","errnoRet":38})"));
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 0) == ENOSYS);

    program = compile(with_rules(
        R"({"names":["getppid"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]})"));
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 7) == EPERM);
    CHECK(errno_under(*program, SYS_getppid, 8) == 0);

    program = compile(with_rules(R"({"names":["getppid"],"action":"SCMP_ACT_KILL_PROCESS"})"));
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 0) == -SIGSYS);
  }

  TEST_CASE("several conditions on one argument are alternatives, a mask is applied first") {
    auto program = compile(with_rules(R"({"names":["getppid"],"action":"SCMP_ACT_ERRNO","args":[
        {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]})"));
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 1) == EPERM);
    CHECK(errno_under(*program, SYS_getppid, 2) == EPERM);
    CHECK(errno_under(*program, SYS_getppid, 3) == 0);
    program = compile(with_rules(R"({"names":["getppid"],"action":"SCMP_ACT_ERRNO","args":[
        {"index":0,"value":240,"valueTwo":16,"op":"SCMP_CMP_MASKED_EQ"}]})"));
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 0x1f) == EPERM);
    CHECK(errno_under(*program, SYS_getppid, 0x2f) == 0);
  }

  TEST_CASE("a default that denies leaves what is allowed") {
    const auto program =
        compile(R"({"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
        {"names":["exit_group","exit","getpid"],"action":"SCMP_ACT_ALLOW"}]})");
    REQUIRE(program);
    CHECK(errno_under(*program, SYS_getppid, 0) == ENOSYS);
    CHECK(errno_under(*program, SYS_getpid, 0) == 0);
  }

  TEST_CASE("rules depend on capabilities and machine") {
    const auto denied = [](const std::string& condition, std::uint64_t capabilities) {
      const auto program = compile(
          with_rules(R"({"names":["getppid"],"action":"SCMP_ACT_ERRNO",)" + condition + "}"),
          capabilities);
      REQUIRE(program);
      return errno_under(*program, SYS_getppid, 0) == EPERM;
    };
    constexpr std::uint64_t kSysAdmin = 1ULL << 21;
    CHECK(denied(R"("includes":{"caps":["CAP_SYS_ADMIN"]})", kSysAdmin));
    CHECK_FALSE(denied(R"("includes":{"caps":["CAP_SYS_ADMIN"]})", 0));
    CHECK(denied(R"("excludes":{"caps":["CAP_SYS_ADMIN"]})", 0));
    CHECK_FALSE(denied(R"("excludes":{"caps":["CAP_SYS_ADMIN"]})", kSysAdmin));
    CHECK_FALSE(denied(R"("includes":{"arches":["s390x-of-no-machine"]})", 0));
#ifdef __x86_64__
    CHECK(denied(R"("includes":{"arches":["amd64"]},"excludes":{})", 0));
    CHECK_FALSE(denied(R"("excludes":{"arches":["amd64"]})", 0));
#endif
  }

  TEST_CASE("what is wrong with a profile is said") {
    struct Row {
      std::string text;
      const char* piece;
    };

    for (
        const Row& row : {
            Row{"{", "not JSON"},
            Row{"[]", "not a JSON object"},
            Row{"{}", "defaultAction is missing"},
            Row{R"({"defaultAction":"SCMP_ACT_NOTIFY"})", "SCMP_ACT_NOTIFY"},
            Row{R"({"defaultAction":7})", "defaultAction is not text"},
            Row{R"({"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_Z80"]})",
                "SCMP_ARCH_Z80"},
            Row{R"({"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[]})",
                "exclude"},
            Row{with_rules(
                    R"({"names":["x"],"action":"SCMP_ACT_ALLOW"},{"name":"a","names":["b"]})"),
                "rule 1: name and names"},
            Row{with_rules(R"({"names":["x"],"action":"SCMP_ACT_ERRNO","errno":"ENONSENSE"})"),
                "ENONSENSE"},
            Row{with_rules(R"({"names":["x"],"action":"SCMP_ACT_ERRNO","errnoRet":-1})"),
                "errnoRet"},
            Row{with_rules(
                    R"({"names":["getpid"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"op":"SCMP_CMP_EQ"}]})"),
                "index is above 5"},
            Row{with_rules(R"({"names":"x"})"), "names is not a list"},
            Row{R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":{}})", "syscalls is not a list"},
        }) {
      CAPTURE(row.text);
      const auto program = compile(row.text);
      REQUIRE_FALSE(program);
      CHECK(program.error().what.find(row.piece) != std::string::npos);
    }
  }

  TEST_CASE("a profile's flags are named, not followed") {
    std::vector<std::string> warnings;
    CHECK(compile_seccomp(
        R"({"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC"]})", 0,
        warnings));
    CHECK(warnings.size() == 1);
  }
}
