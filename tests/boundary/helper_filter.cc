// The helper's filter from the inside: a process that has it tries every call of the system that
// helper/SYSCALLS does not list, and every argument that it does not, and must be ended by each.
// Prints TAP.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

#include <linux/audit.h>
#include <linux/dm-ioctl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "helper/build_paths.h"
#include "helper/steps.h"

namespace postern::helper {
namespace {

// As in helper/main.cc.
constexpr std::array kFilter = std::to_array<sock_filter>({
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, arch)},
    {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, kAuditArch},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
#include "helper/syscalls.inc"
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
});

// The signal that ended a process with the filter which made the call, 0 if none did.
int ended_by(const std::function<void()>& call) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    auto program = kFilter;
    const sock_fprog filter{program.size(), program.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
      ::_exit(99);
    }
    call();
    ::_exit(0);
  }
  int status = 0;
  return pid > 0 && ::waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

// A row begins with a comparison of the number, and is as long as that jumps.
bool is_listed(long number) {
  for (std::size_t i = 4; kFilter[i].code == (BPF_JMP | BPF_JEQ | BPF_K); i += 1U + kFilter[i].jf) {
    if (kFilter[i].k == number) {
      return true;
    }
  }
  return false;
}

// uretprobe(2) and uprobe(2) pass every filter (seccomp.c of the kernel, from 6.14 and 6.18 on):
// they do nothing but where the kernel itself placed them, for root's tracing.
bool is_never_filtered(long number) {
#ifdef __x86_64__
  return number == 335 || number == 336;
#else
  return number < 0;
#endif
}

int g_number = 0;
int g_failed = 0;

void tell(bool good, const std::string& what) {
  std::printf("%sok %d - %s\n", good ? "" : "not ", ++g_number, what.c_str());
  g_failed += good ? 0 : 1;
}

void every_unlisted_call() {
  constexpr long kCalls = 600;
  std::string passed;
  int tried = 0;
  for (long number = 0; number < kCalls; ++number) {
    if (is_listed(number) || is_never_filtered(number)) {
      continue;
    }
    ++tried;
    if (ended_by([number] { ::syscall(number, -1, -1, -1, -1, -1, -1); }) != SIGSYS) {
      passed += ' ' + std::to_string(number);
    }
  }
  tell(passed.empty() && tried > 300,
       "each of " + std::to_string(tried) + " calls that are not listed ends the process" + passed);
#ifdef __x86_64__
  constexpr long kX32 = 0x40000000;
  tell(ended_by([] { ::syscall(kX32 | SYS_read, -1, 0, 0); }) == SIGSYS, "so does one of x32");
  const int old = ended_by([] {
    long result = 20;  // getpid(2) of i386
    asm volatile("int $0x80" : "+a"(result) : : "memory");
  });
  tell(old == SIGSYS || old == SIGSEGV, "and one of i386");
#endif
}

void every_unlisted_argument() {
  struct Try {
    const char* what;
    std::array<long, 6> call;
  };

  const std::array tries = std::to_array<Try>({
      {"ioctl: terminal input", {SYS_ioctl, 0, TIOCSTI, 0}},
      {"ioctl: LOOP_SET_FD", {SYS_ioctl, 0, LOOP_SET_FD, 0}},
      {"ioctl: LOOP_CLR_FD", {SYS_ioctl, 0, LOOP_CLR_FD, 0}},
      {"ioctl: LOOP_CTL_REMOVE", {SYS_ioctl, 0, LOOP_CTL_REMOVE, 0}},
      {"ioctl: DM_REMOVE_ALL", {SYS_ioctl, 0, static_cast<long>(DM_REMOVE_ALL), 0}},
      {"ioctl: DM_TARGET_MSG", {SYS_ioctl, 0, static_cast<long>(DM_TARGET_MSG), 0}},
      {"prctl: PR_SET_DUMPABLE's neighbour", {SYS_prctl, PR_GET_DUMPABLE, 0, 0}},
      {"prctl: PR_CAP_AMBIENT", {SYS_prctl, PR_CAP_AMBIENT, 2, 0}},
      {"prctl: PR_SET_MM", {SYS_prctl, PR_SET_MM, 0, 0}},
      {"prctl: PR_SET_SECUREBITS", {SYS_prctl, PR_SET_SECUREBITS, 0, 0}},
      {"setns: user", {SYS_setns, -1, CLONE_NEWUSER, 0}},
      {"setns: any", {SYS_setns, -1, 0, 0}},
      {"setns: mounts and network", {SYS_setns, -1, CLONE_NEWNS | CLONE_NEWNET, 0}},
      {"sendto: another descriptor", {SYS_sendto, 4, 0, 0, 0, 0}},
      {"sendto: standard output", {SYS_sendto, 1, 0, 0, 0, 0}},
      {"openat: write", {SYS_openat, AT_FDCWD, 0, O_WRONLY | O_CLOEXEC, 0}},
      {"openat: create", {SYS_openat, AT_FDCWD, 0, O_RDWR | O_CREAT | O_CLOEXEC, 0600}},
      {"openat: truncate", {SYS_openat, AT_FDCWD, 0, O_RDWR | O_TRUNC | O_CLOEXEC, 0}},
      {"openat: kept by exec", {SYS_openat, AT_FDCWD, 0, O_RDONLY, 0}},
  });
  for (const Try& t : tries) {
    const auto& c = t.call;
    tell(ended_by([&c] { ::syscall(c[0], c[1], c[2], c[3], c[4], c[5]); }) == SIGSYS, t.what);
  }
}

// The twins: what is listed passes, with the arguments that are.
void what_is_listed() {
  tell(ended_by([] { ::close(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }) == 0, "a device opens");
  tell(ended_by([] { ::ioctl(-1, LOOP_CTL_ADD, 0); }) == 0, "LOOP_CTL_ADD passes");
  tell(ended_by([] { ::ioctl(-1, DM_TABLE_LOAD, nullptr); }) == 0, "DM_TABLE_LOAD passes");
  tell(ended_by([] { ::setns(-1, CLONE_NEWNS); }) == 0, "setns to mounts passes");
  tell(ended_by([] { ::send(kSocket, "", 1, MSG_NOSIGNAL); }) == 0, "the reply passes");
  tell(ended_by([] { ::prctl(PR_SET_DUMPABLE, 0); }) == 0, "PR_SET_DUMPABLE passes");
  tell(ended_by([] { ::getppid(); }) == 0, "getppid passes");
}

}  // namespace
}  // namespace postern::helper

int main() {
  postern::helper::every_unlisted_call();
  postern::helper::every_unlisted_argument();
  postern::helper::what_is_listed();
  std::printf("1..%d\n", postern::helper::g_number);
  return postern::helper::g_failed > 0 ? 1 : 0;
}
