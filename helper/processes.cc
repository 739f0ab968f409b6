// The two processes that the helper starts: the judge, and the payload's.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
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

std::array<gid_t, kMaxGroups> g_groups;

// protocol/judge_input.h draws the descriptors. The request and its own are already in their
// places.
[[noreturn]] void become_judge(Caller judge, int descriptors, int answer, pid_t helper) noexcept {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < kJudgeFd; ++fd) POSTERN_CHECK(null >= 0 && ::dup2(null, fd) == fd);
  POSTERN_CHECK(::dup2(answer, kJudgeFd) == kJudgeFd);
  POSTERN_CHECK(::close_range(static_cast<unsigned>(kJudgeDescriptorBase + descriptors), ~0U, 0) ==
                0);
  // The judge sets its own limits. What the caller's would deny it is lifted where we may
  // (CAP_SYS_RESOURCE).
  constexpr rlimit kUnlimited{RLIM_INFINITY, RLIM_INFINITY};
  for (const unsigned r :
       {RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_NPROC})
    (void)::syscall(SYS_prlimit64, 0, r, &kUnlimited, nullptr);
  POSTERN_CHECK(::syscall(SYS_setgroups, 0, nullptr) == 0 && ::getgroups(0, nullptr) == 0);
  take_ids(judge, 0, 0, 0);
  POSTERN_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  // ORDER: after the ids, whose change clears it (prctl(2)); then the helper may be gone already.
  POSTERN_CHECK(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == helper);
  std::array<char, 14> name{"postern-judge"};
  std::array<char*, 2> argv{name.data(), nullptr};
  ::execve(kJudgeProgram, argv.data(), &argv.back());
  ::_exit(127);
}

// The payload's process. Once its namespaces are furnished it has no privilege, and nothing of the
// helper's but the channel.
[[noreturn]] void run_payload(const Plan& plan, Caller caller, int channel) noexcept {
  const Result<> furnished = furnish_namespaces(plan);
  for (unsigned c = 0; ::prctl(PR_CAPBSET_READ, c) >= 0; ++c)
    if ((plan->capabilities & bit(c)) == 0) POSTERN_CHECK(::prctl(PR_CAPBSET_DROP, c) == 0);
  take_ids(caller, plan->capabilities, plan->capabilities, plan->capabilities);
  for (unsigned c = 0; c <= CAP_LAST_CAP; ++c)
    if ((plan->capabilities & bit(c)) != 0)
      POSTERN_CHECK(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) == 0);
  POSTERN_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
  POSTERN_CHECK(::dup2(kJudgeDescriptorBase + plan->record_descriptor, kRecord) == kRecord);
  // INVARIANT: none of the three is the request's descriptor 0 (the root's), and `channel` came
  // after all of them, so that no number is overwritten before it is copied. dup3(2) onto itself
  // fails.
  POSTERN_CHECK(::dup3(kJudgeDescriptorBase + plan->init_descriptor, kInit, O_CLOEXEC) == kInit);
  POSTERN_CHECK(::dup3(channel, kChannel, O_CLOEXEC) == kChannel &&
                ::close_range(kChannel + 1, ~0U, 0) == 0);

  const Error state = furnished ? Error{} : furnished.error();
  std::uint64_t root_mount = 0;
  POSTERN_CHECK(::write(kChannel, &state, sizeof state) == sizeof state);
  POSTERN_CHECK(::read(kChannel, &root_mount, sizeof root_mount) == sizeof root_mount &&
                root_mount != 0);
  POSTERN_CHECK(mount_id("/") == root_mount && mount_id(".") == root_mount);
  std::array<char, 13> name{"postern-init"};
  std::array<char*, 2> argv{name.data(), nullptr};
  ::execveat(kInit, "", argv.data(), &argv.back(), AT_EMPTY_PATH);
  ::_exit(127);
}

}  // namespace

// ORDER: gid before uid. KEEPCAPS carries the permitted set over; what is not kept goes at once.
void take_ids(Caller ids,
              std::uint64_t kept,
              std::uint64_t effective,
              std::uint64_t inheritable) noexcept {
  uid_t uid = 0, euid = 0, suid = 0;
  gid_t gid = 0, egid = 0, sgid = 0;
  POSTERN_CHECK(::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
  POSTERN_CHECK(::setresgid(ids.gid, ids.gid, ids.gid) == 0 &&
                ::setresuid(ids.uid, ids.uid, ids.uid) == 0);
  use_capabilities(effective, inheritable, kept);
  POSTERN_CHECK(::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0 && ::prctl(PR_SET_DUMPABLE, 0) == 0);
  POSTERN_CHECK(::getresuid(&uid, &euid, &suid) == 0 && uid == ids.uid && euid == ids.uid &&
                suid == ids.uid);
  POSTERN_CHECK(::getresgid(&gid, &egid, &sgid) == 0 && gid == ids.gid && egid == ids.gid &&
                sgid == ids.gid);
  POSTERN_CHECK((kept & bit(CAP_SETUID)) != 0 || ::setresuid(0, 0, 0) == -1);
}

// One file for both ways. The verdict is copied once: what is checked is what is acted on, whoever
// still holds the file.
Result<> ask_judge(Caller caller, std::size_t descriptors, Verdict& verdict) noexcept {
  struct stat user{};
  const bool found = ::lstat(kJudgeDirectory, &user) == 0 && S_ISDIR(user.st_mode);
  const bool separate = user.st_uid != 0 && user.st_gid != 0 && user.st_uid != caller.uid;
  if (!found || !separate) return refuse(HelperRefusal::kJudgeUser);
  POSTERN_TRY_ASSIGN(const UniqueFd file, own(::memfd_create("judge", MFD_CLOEXEC), Op::kJudge));
  const int groups = ::getgroups(g_groups.size(), g_groups.data());
  const std::size_t bytes = static_cast<std::size_t>(groups) * sizeof(gid_t);
  const JudgeInput input{
      .uid = caller.uid, .gid = caller.gid, .descriptor_count = static_cast<unsigned>(descriptors)};
  const bool written = groups >= 0 && ::write(file.get(), &input, sizeof input) == sizeof input &&
                       ::write(file.get(), g_groups.data(), bytes) == static_cast<ssize_t>(bytes);
  POSTERN_TRY(require(written, Op::kJudge));
  const pid_t self = ::getpid(), judge = ::fork();
  if (judge == 0)
    become_judge({user.st_uid, user.st_gid}, static_cast<int>(descriptors), file.get(), self);
  int status = -1;
  POSTERN_TRY(require(judge > 0 && ::waitpid(judge, &status, 0) == judge, Op::kJudge));
  const bool answered =
      status == 0 && ::pread(file.get(), &verdict, sizeof verdict, 0) == sizeof verdict;
  return answered && verdict.magic == kVerdictMagic ? Result<>()
                                                    : refuse(HelperRefusal::kJudgeFailed);
}

Result<Child> spawn_payload_child(const Plan& plan, Caller caller) noexcept {
  if (plan->net_descriptor != kNoDescriptor)
    POSTERN_TRY(require(::setns(kJudgeDescriptorBase + plan->net_descriptor, CLONE_NEWNET) == 0,
                        Op::kSpawn));
  std::array<int, 2> ends{};
  POSTERN_TRY(require(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) == 0,
                      Op::kSpawn));
  const UniqueFd theirs(ends[0]);
  int process = -1;
  const int flags =
      static_cast<int>(plan->namespaces) | CLONE_NEWNS | CLONE_PARENT | CLONE_PIDFD | SIGCHLD;
  const long pid = ::syscall(SYS_clone, flags, nullptr, &process, nullptr, 0);
  if (pid == 0) run_payload(plan, caller, theirs.get());
  Child child{
      .process = UniqueFd(process), .channel = UniqueFd(ends[1]), .pid = static_cast<pid_t>(pid)};
  POSTERN_TRY(require(pid > 0, Op::kSpawn));
  return child;
}

}  // namespace postern::helper
