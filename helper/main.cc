// postern-helper: the steps, in order. README.md is the guide to this folder.
#include <cstddef>
#include <cstring>

#include <linux/dm-ioctl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <signal.h>

#include "helper/build_paths.h"
#include "helper/mounts.h"
#include "helper/steps.h"

// The C++ library's hook for a broken precondition (an index out of range): no text, no abort.
void std::__glibcxx_assert_fail(const char*, int, const char*, const char*) noexcept {
  postern::die_of_bug();
}

namespace postern::helper {

namespace {

Verdict g_verdict;

// What the later steps use, by README.md, section 3. All else goes before anything of the caller's
// is awaited, and of this, each step has only its part effective.
constexpr std::uint64_t kOwning = bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER);
constexpr std::uint64_t kJoining = kMounting | bit(CAP_SYS_CHROOT) | bit(CAP_SYS_PTRACE);
constexpr std::uint64_t kAfterChild = kOwning | kJoining | bit(CAP_SETUID) | bit(CAP_SETGID);
constexpr std::uint64_t kHeld = kAfterChild | bit(CAP_SETPCAP) | bit(CAP_LEASE) | kGrantable;

// Descriptors: open(2) takes the lowest free number, so what was closed becomes /dev/null. Of the
// signals, exec leaves those that were ignored (signal(7)): two are waited for here, the clock's
// and a child's; an ignored one of the others ends nothing, and goes on to the payload untouched.
// Timers of the process survive exec (getitimer(2)).
Result<> reset_inherited() noexcept {
  constexpr std::array<unsigned long, 4> kDefault{};  // struct sigaction of the kernel, and a mask
  constexpr itimerval kOff{};
  ::environ = nullptr;
  bool done = ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &kDefault, nullptr, 8) == 0;
  for (const int number : {SIGALRM, SIGCHLD})
    done = ::syscall(SYS_rt_sigaction, number, &kDefault, nullptr, 8) == 0 && done;
  for (const auto timer : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF})
    done = ::setitimer(timer, &kOff, nullptr) == 0 && done;
  ::alarm(kHelperDeadlineSeconds);
  for (int fd = 0; fd < kSocket; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) done = ::open("/dev/null", O_RDWR | O_CLOEXEC) == fd && done;
  ::umask(022);
  return require(close_from(kSocket + 1) && ::chdir("/") == 0 && done, Op::kStart);
}

// AT_SECURE and geteuid() prove nothing: the ids do, in the first user namespace (nsfs.h of the
// kernel). And the socket is that of the process that started this one.
Result<Ids> record_caller(int argc) noexcept {
  constexpr ino_t kFirstUserNamespace = 0xeffffffd;
  uid_t uid = 0, euid = 0, suid = 0;
  gid_t gid = 0, egid = 0, sgid = 0;
  struct stat ns{};
  ucred peer{};
  socklen_t bytes = sizeof peer;
  const bool known = ::getresuid(&uid, &euid, &suid) == 0 && ::getresgid(&gid, &egid, &sgid) == 0;
  POSTERN_TRY(require(known && ::stat("/proc/self/ns/user", &ns) == 0, Op::kStart));
  if (argc != 1) return refuse(HelperRefusal::kArguments);
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0) return refuse(HelperRefusal::kNoNewPrivs);
  if (ns.st_ino != kFirstUserNamespace) return refuse(HelperRefusal::kUserNamespace);
  if (uid == 0) return refuse(HelperRefusal::kRealRoot);
  if (euid != 0 || suid != 0) return refuse(HelperRefusal::kNotSetuid);
  const bool ours = ::getsockopt(kSocket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
                    peer.uid == uid && peer.pid == ::getppid();
  if (!ours) return refuse(HelperRefusal::kNoSocket);
  return Ids{uid, 0, gid, peer.pid};
}

// The frontend's datagrams: of each a byte, 0 in the last, and descriptors: the request, which
// nobody here reads, then those that it names. The kernel gives them the lowest free numbers, in
// order.
Result<std::span<UniqueFd>> receive(std::array<UniqueFd, kMaxDescriptors>& fds) noexcept {
  std::size_t count = 0;
  int next = kJudgeRequestFd;
  for (char more = 1; more != 0;) {
    alignas(cmsghdr) std::array<std::byte, CMSG_LEN(sizeof(int) * kMaxRights)> control;
    iovec part{&more, sizeof more};
    msghdr message{nullptr, 0, &part, 1, control.data(), control.size(), 0};
    if (::recvmsg(kSocket, &message, 0) != sizeof more) return refuse(HelperRefusal::kNoSocket);
    const cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    const bool whole = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 && rights != nullptr &&
                       rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS;
    POSTERN_TRY(require(whole, Op::kStart, EMSGSIZE));
    for (std::size_t at = CMSG_LEN(0); at < rights->cmsg_len; at += sizeof next, ++next) {
      POSTERN_CHECK(std::memcmp(&control[at], &next, sizeof next) == 0);
      POSTERN_TRY(require(count < fds.size(), Op::kStart, EMSGSIZE));
      if (next >= kJudgeDescriptorBase) fds[count++].reset(next);
    }
  }
  return std::span(fds).first(count);
}

// The filter: on this architecture, what helper/SYSCALLS lists; else the end.
constexpr std::array kFilter = std::to_array<sock_filter>({
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, arch)},
    {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, kAuditArch},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
#include "helper/syscalls.inc"
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
});

// From here no exec, no fork, no new socket. ORDER: after the child is cloned, which must not
// inherit the filter.
Result<> lock_down() noexcept {
  auto program = kFilter;
  const sock_fprog filter{program.size(), program.data()};
  const bool locked = ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
  return require(locked && ::prctl(PR_GET_SECCOMP) == SECCOMP_MODE_FILTER, Op::kStart);
}

// ORDER: with CAP_SYS_PTRACE, without which the kernel lets nobody enter by the pidfd of an
// undumpable process; nothing is looked up in the new namespace before the caller's ids are taken.
Result<> join_child(const Plan& plan, const Child& child) noexcept {
  const std::uint64_t before = mount_id("/");
  Error state{.err = ECHILD, .op = Op::kSpawn};
  if (::read(child.channel.get(), &state, sizeof state) != sizeof state || state.err != 0)
    return state;
  const int kinds = CLONE_NEWNS | static_cast<int>(plan->namespaces & CLONE_NEWIPC);
  POSTERN_TRY(require(::setns(child.process.get(), kinds) == 0, Op::kSpawn));
  const std::uint64_t after = mount_id("/");
  // Proof: a mount has another id in each namespace. What follows would else rebuild the host's
  // root.
  return require(before != 0 && after != 0 && before != after, Op::kSpawn, ESTALE);
}

Result<> send_reply(const Reply& reply) noexcept {
  return require(::send(kSocket, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply, Op::kStart);
}

Result<> serve(int argc, Reply& reply) noexcept {
  std::array<UniqueFd, kMaxDescriptors> received;
  POSTERN_TRY(reset_inherited());
  POSTERN_TRY_ASSIGN(const Ids caller, record_caller(argc));
  POSTERN_TRY(lift_limits(reply.item));
  // ORDER: before any process of ours can exist that the caller may trace (ptrace(2)).
  POSTERN_TRY(require(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, Op::kStart));
  POSTERN_TRY(require(::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, Op::kStart, EPERM));
  take_ids(caller, kHeld, 0);
  POSTERN_TRY_ASSIGN(const std::span<UniqueFd> fds, receive(received));
  POSTERN_TRY(ask_judge(caller, fds.size(), g_verdict));
  reply.item = g_verdict.refusal_item;
  if (g_verdict.refusal != 0) return refuse(HelperRefusal{g_verdict.refusal});
  POSTERN_TRY_ASSIGN(const Plan plan,
                     check_verdict(g_verdict, fds.size(), kNamespaces ^ CLONE_NEWUSER));
  POSTERN_TRY(check_grantable(plan));
  POSTERN_TRY_ASSIGN(const Child child, spawn_payload_child(plan, caller));
  POSTERN_TRY(lock_down());
  use_capabilities(kMounting | bit(CAP_DAC_OVERRIDE), kAfterChild);
  POSTERN_TRY_ASSIGN(const Device device, make_devices(plan, fds));
  POSTERN_TRY(clone_sources(plan, fds));
  use_capabilities(kJoining);
  POSTERN_TRY(join_child(plan, child));
  take_ids({caller.uid, caller.uid, caller.gid, caller.parent}, kMounting | kOwning, kMounting);
  POSTERN_TRY_ASSIGN(const std::uint64_t root_mount, build_root(plan, fds, device.path.text()));
  // ORDER: the frontend knows of the payload before it runs. Without a frontend there is no
  // payload.
  reply.pid = child.pid;
  POSTERN_TRY(send_reply(reply));
  const ssize_t told = ::write(child.channel.get(), &root_mount, sizeof root_mount);
  return require(told == sizeof root_mount, Op::kStart);
}

}  // namespace

}  // namespace postern::helper

// Exit status: 0 the payload runs; a refusal of the helper's own (1 … 49); 50 anything else; what
// the frontend needs is in the reply.
int main(int argc, char** /*argv*/) {
  postern::Reply reply{};
  const postern::Result<> result = postern::helper::serve(argc, reply);
  if (result) return 0;
  const auto& [err, op, item] = result.error();
  reply.op = static_cast<std::uint16_t>(op);
  reply.err = err;
  if (err == 0) reply.refusal = item;
  if (err != 0) reply.item = item;
  (void)postern::helper::send_reply(reply).has_value();
  return err == 0 && item < 50 ? item : 50;
}
