// The processes: their ids and limits, and the two that the helper starts: the judge, and the
// payload's.
#include <algorithm>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <sched.h>
#include <signal.h>

#include "helper/build_paths.h"
#include "helper/mounts.h"
#include "helper/steps.h"

namespace postern::helper {

namespace {

// The descriptors of the payload's process while it waits. postern-init gets its launch record
// alone.
enum : int { kRecord = 3, kInit, kChannel };

// Limits that could end or starve a step of ours; without the first six raised none is begun.
constexpr std::array kLimits{RLIMIT_CPU,   RLIMIT_RTTIME, RLIMIT_AS,    RLIMIT_DATA,
                             RLIMIT_FSIZE, RLIMIT_NOFILE, RLIMIT_STACK, RLIMIT_NPROC};
constexpr std::size_t kNeeded = 6;

std::array<gid_t, kMaxGroups> g_groups;
std::array<rlimit, kLimits.size()> g_limits;  // the caller's

// protocol/judge_input.h draws the descriptors. The request and its own are already in their
// places.
[[noreturn]] void become_judge(const Ids& judge, int descriptors, int answer) noexcept {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < kJudgeFd; ++fd) POSTERN_CHECK(null >= 0 && ::dup2(null, fd) == fd);
  POSTERN_CHECK(::dup2(answer, kJudgeFd) == kJudgeFd);
  POSTERN_CHECK(close_from(kJudgeDescriptorBase + descriptors));
  use_capabilities(bit(CAP_SETGID));
  POSTERN_CHECK(::syscall(SYS_setgroups, 0, nullptr) == 0 && ::getgroups(0, nullptr) == 0);
  take_ids(judge, 0, 0);
  std::array<char, 14> name{"postern-judge"};
  std::array<char*, 2> argv{name.data(), nullptr};
  ::execve(kJudgeProgram, argv.data(), &argv.back());
  ::_exit(127);
}

// The payload's process. Once its namespaces are furnished it has no privilege, and nothing of the
// helper's but the channel.
[[noreturn]] void run_payload(const Plan& plan, const Ids& caller, int channel) noexcept {
  const Result<> furnished = furnish_namespaces(plan);
  const std::uint64_t granted = plan->capabilities;
  use_capabilities(bit(CAP_SETPCAP));
  unsigned c = 0;
  while (c < 64 && ((granted & bit(c)) != 0 || ::prctl(PR_CAPBSET_DROP, c) == 0)) ++c;
  POSTERN_CHECK(::prctl(PR_CAPBSET_READ, c) < 0);  // the first that the kernel does not know
  take_ids(caller, granted, granted);
  while (c-- > 0)
    POSTERN_CHECK((granted & bit(c)) == 0
                      ? ::prctl(PR_CAPBSET_READ, c) == 0
                      : ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) == 0);
  POSTERN_CHECK(::dup2(kJudgeDescriptorBase + plan->record_descriptor, kRecord) == kRecord);
  // INVARIANT: none of the three is the request's descriptor 0 (the root's), and `channel` came
  // after all of them, so that no number is overwritten before it is copied. dup3(2) onto itself
  // fails.
  const int init = kJudgeDescriptorBase + plan->init_descriptor;
  POSTERN_CHECK(::dup3(init, kInit, O_CLOEXEC) == kInit);
  POSTERN_CHECK(::dup3(channel, kChannel, O_CLOEXEC) == kChannel && close_from(kChannel + 1));

  const Error state = furnished ? Error{} : furnished.error();
  std::uint64_t root_mount = 0;
  POSTERN_CHECK(::write(kChannel, &state, sizeof state) == sizeof state);
  POSTERN_CHECK(::read(kChannel, &root_mount, sizeof root_mount) == sizeof root_mount);
  POSTERN_CHECK(root_mount != 0 && mount_id("/") == root_mount && mount_id(".") == root_mount);
  // ORDER: last, for the caller's may allow less than the calls above need. They are only lowered.
  for (std::size_t i = 0; i < kLimits.size(); ++i)
    POSTERN_CHECK(::syscall(SYS_prlimit64, 0, kLimits[i], &g_limits[i], nullptr) == 0);
  std::array<char, 13> name{"postern-init"};
  std::array<char*, 2> argv{name.data(), nullptr};
  ::execveat(kInit, "", argv.data(), &argv.back(), AT_EMPTY_PATH);
  ::_exit(127);
}

// The judge writes the audit line of every start; of one in which it died, the helper.
void log_dead_judge(uid_t uid) noexcept {
  constexpr sockaddr_un kLog{.sun_family = AF_UNIX, .sun_path = "/dev/log"};
  const UniqueFd log(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const Text line = Text().add("<84>postern-helper: refused: the judge died, uid=").add(uid);
  const void* const to = &kLog;
  (void)::sendto(log.get(), line.text(), ::strlen(line.text()), MSG_NOSIGNAL,
                 static_cast<const sockaddr*>(to), sizeof kLog);
}

// Whether some process may write the file: then no read lease is granted (fcntl(2)). Who had it
// open before it became root's still has, and neither mode nor owner shows it.
bool is_open_for_writing(int fd) noexcept {
  use_capabilities(bit(CAP_LEASE));
  const bool open = ::fcntl(fd, F_SETLEASE, F_RDLCK) != 0 && errno == EAGAIN;
  (void)::fcntl(fd, F_SETLEASE, F_UNLCK);
  use_capabilities(0);
  return open;
}

}  // namespace

// The read-back: in the judge's and the payload's process, `first` was open.
bool close_from(int first) noexcept {
  return ::close_range(static_cast<unsigned>(first), ~0U, 0) == 0 && ::fcntl(first, F_GETFD) < 0;
}

// A signal by RLIMIT_CPU or RLIMIT_RTTIME cannot be blocked. Hard limits are only raised
// (CAP_SYS_RESOURCE), so that the payload's process can go back without a capability.
Result<> lift_limits(std::uint32_t& item) noexcept {
  for (std::size_t i = 0; i < kLimits.size(); ++i) {
    item = kLimits[i];
    rlimit& was = g_limits[i];
    POSTERN_TRY(require(::syscall(SYS_prlimit64, 0, item, nullptr, &was) == 0, Op::kStart));
    // Of descriptors as many as the caller may have, who could not send more.
    const rlim_t most = std::max<rlim_t>(was.rlim_max, item == RLIMIT_NOFILE ? 512 : RLIM_INFINITY);
    const rlimit now{most, most};
    if (was.rlim_cur < most && ::syscall(SYS_prlimit64, 0, item, &now, nullptr) != 0 && i < kNeeded)
      return refuse(HelperRefusal::kLimit);
  }
  item = 0;
  return Ok{};
}

// ORDER: gid before uid. KEEPCAPS carries the permitted set over. Undumpable before what is not
// kept goes: a change of ids makes a process what fs.suid_dumpable says (proc(5)), and until then
// only its capabilities keep the caller off. The death signal after the ids, whose change clears it
// (prctl(2)); the parent may be gone by then.
void take_ids(const Ids& ids, std::uint64_t kept, std::uint64_t effective) noexcept {
  uid_t uid = 0, euid = 0, suid = 0;
  gid_t gid = 0, egid = 0, sgid = 0;
  use_capabilities(bit(CAP_SETUID) | bit(CAP_SETGID));
  POSTERN_CHECK(::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
  POSTERN_CHECK(::setresgid(ids.gid, ids.gid, ids.gid) == 0);
  POSTERN_CHECK(::setresuid(ids.uid, ids.uid, ids.saved) == 0 && ::prctl(PR_SET_DUMPABLE, 0) == 0);
  use_capabilities(effective, kept, effective);
  POSTERN_CHECK(::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0 && ::prctl(PR_GET_KEEPCAPS) == 0);
  POSTERN_CHECK(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == ids.parent);
  POSTERN_CHECK(::getresuid(&uid, &euid, &suid) == 0 && ::getresgid(&gid, &egid, &sgid) == 0);
  POSTERN_CHECK(uid == ids.uid && euid == ids.uid && suid == ids.saved);
  POSTERN_CHECK(gid == ids.gid && egid == ids.gid && sgid == ids.gid);
  POSTERN_CHECK(ids.saved == 0 || ::setresuid(0, 0, 0) == -1);
}

// One file for both ways. Each byte of the verdict is copied once, and no more than the tables
// hold: what is checked is what is acted on, whoever still holds the file.
Result<> ask_judge(const Ids& caller, std::size_t descriptors, Verdict& verdict) noexcept {
  struct stat user{};
  const bool found = ::lstat(kJudgeDirectory, &user) == 0 && S_ISDIR(user.st_mode);
  const bool separate = user.st_uid != 0 && user.st_gid != 0 && user.st_uid != caller.uid;
  if (!found || !separate) return refuse(HelperRefusal::kJudgeUser);
  POSTERN_TRY_ASSIGN(const UniqueFd file, own(::memfd_create("judge", MFD_CLOEXEC), Op::kJudge));
  const int groups = ::getgroups(g_groups.size(), g_groups.data());
  const std::size_t bytes = static_cast<std::size_t>(groups) * sizeof(gid_t);
  const JudgeInput input{kJudgeInputMagic, caller.uid, caller.gid, unsigned(descriptors),
                         is_open_for_writing(kJudgeDescriptorBase) ? 1U : 0U};
  const bool written = groups >= 0 && ::write(file.get(), &input, sizeof input) == sizeof input &&
                       ::write(file.get(), g_groups.data(), bytes) == static_cast<ssize_t>(bytes);
  POSTERN_TRY(require(written, Op::kJudge));
  const Ids as{user.st_uid, user.st_uid, user.st_gid, ::getpid()};
  const pid_t judge = ::fork();
  if (judge == 0) become_judge(as, static_cast<int>(descriptors), file.get());
  int status = -1;
  POSTERN_TRY(require(judge > 0 && ::waitpid(judge, &status, 0) == judge, Op::kJudge));
  const ssize_t got = ::pread(file.get(), &verdict, sizeof verdict, 0);
  const std::size_t table = verdict.operation_count * sizeof(OperationEntry);
  const bool answered = status == 0 && verdict.magic == kVerdictMagic &&
                        verdict.operation_count <= kMaxOperations &&
                        verdict.arena_bytes <= kArenaBytes &&
                        got >= ssize_t(offsetof(Verdict, operations) + table + verdict.arena_bytes);
  const void* const arena = verdict.operations.data() + verdict.operation_count;
  if (answered) return ::memmove(verdict.arena.data(), arena, verdict.arena_bytes), Ok{};
  log_dead_judge(caller.uid);
  return refuse(HelperRefusal::kJudgeFailed);
}

// The list is a directory with an empty file of root's for each capability: nothing to parse.
Result<> check_grantable(const Plan& plan) noexcept {
  for (std::uint64_t left = plan->capabilities; left != 0; left &= left - 1) {
    struct stat file{};
    const Text path = Text().add(kGrantableDirectory).add(unsigned(std::countr_zero(left)));
    if (::lstat(path.text(), &file) != 0 || !S_ISREG(file.st_mode) || file.st_uid != 0)
      return refuse(HelperRefusal::kCeiling);
  }
  return Ok{};
}

// ORDER: with the caller's effective user id, to whom the kernel then charges the new namespaces
// (namespaces(7), "/proc/sys/user").
Result<Child> spawn_payload_child(const Plan& plan, const Ids& caller) noexcept {
  use_capabilities(kMounting);
  const int network = kJudgeDescriptorBase + plan->net_descriptor;
  if (plan->net_descriptor != kNoDescriptor)
    POSTERN_TRY(require(::setns(network, CLONE_NEWNET) == 0, Op::kSpawn));
  std::array<int, 2> ends{};
  constexpr int kType = SOCK_SEQPACKET | SOCK_CLOEXEC;
  POSTERN_TRY(require(::socketpair(AF_UNIX, kType, 0, ends.data()) == 0, Op::kSpawn));
  const UniqueFd theirs(ends[0]);
  int process = -1;
  const int flags = int(plan->namespaces) | CLONE_NEWNS | CLONE_PARENT | CLONE_PIDFD | SIGCHLD;
  // In a pid namespace of its own a process has no parent (pid_namespaces(7)).
  const pid_t parent = (plan->namespaces & CLONE_NEWPID) != 0 ? 0 : caller.parent;
  const Ids as{caller.uid, caller.uid, caller.gid, parent};
  const long pid = ::syscall(SYS_clone, flags, nullptr, &process, nullptr, 0);
  if (pid == 0) run_payload(plan, as, theirs.get());
  Child child{UniqueFd(process), UniqueFd(ends[1]), static_cast<pid_t>(pid)};
  POSTERN_TRY(require(pid > 0, Op::kSpawn));
  return child;
}

}  // namespace postern::helper
