// The two processes that the helper starts: the judge, and the payload's.
#include <sched.h>
#include <signal.h>

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "helper/build_paths.h"
#include "helper/steps.h"
#include "protocol/judge_input.h"

namespace postern::helper {

namespace {

// The descriptors of the payload's process while it waits. postern-init gets its launch record alone.
constexpr int kRecord = 3;
constexpr int kInit = 4;
constexpr int kGo = 5;

std::array<gid_t, kMaxGroups> g_groups;

// protocol/judge_input.h draws the descriptors. Those of the request are already in their places.
void place_judge_descriptors(int descriptors, int answer, int request) noexcept {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const std::array<std::array<int, 2>, 5> places{
      {{kFirstDescriptor, kJudgeRootFd}, {null, 1}, {null, 2}, {answer, kJudgeVerdictFd}, {request, kJudgeRequestFd}}};
  for (const auto& [from, to] : places) POSTERN_CHECK(::dup2(from, to) == to);
  for (int i = 1; i < descriptors; ++i) POSTERN_CHECK(::fcntl(kJudgeDescriptorBase + i, F_SETFD, 0) == 0);
  POSTERN_CHECK(::close_range(static_cast<unsigned>(kJudgeDescriptorBase + descriptors), ~0U, 0) == 0);
}
static_assert(kJudgeDescriptorBase == kFirstDescriptor);

[[noreturn]] void become_judge(Caller judge, int descriptors, int answer, int request, pid_t helper) noexcept {
  place_judge_descriptors(descriptors, answer, request);
  // The judge sets its own limits. What the caller's would deny it is lifted where we may (CAP_SYS_RESOURCE).
  constexpr rlimit kUnlimited{RLIM_INFINITY, RLIM_INFINITY};
  for (const unsigned r : {RLIMIT_AS, RLIMIT_CORE, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_NPROC})
    (void)::syscall(SYS_prlimit64, 0, r, &kUnlimited, nullptr);
  POSTERN_CHECK(::syscall(SYS_setgroups, 0, nullptr) == 0);
  take_ids(judge, 0, 0, 0);
  POSTERN_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  // ORDER: after the ids, whose change clears it (prctl(2)); then the helper may be gone already.
  POSTERN_CHECK(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && ::getppid() == helper);
  std::array<char, 14> name{"postern-judge"};
  std::array<char*, 2> argv{name.data(), nullptr};
  ::execve(kJudgeProgram, argv.data(), &argv.back());
  ::_exit(127);
}

// | JudgeInput | groups | request |, sealed: the judge reads what was written here and nothing else.
Result<UniqueFd> write_request(Caller caller, std::span<const std::byte> request, std::size_t descriptors) noexcept {
  constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  POSTERN_TRY_ASSIGN(UniqueFd file, own(::memfd_create("request", MFD_CLOEXEC | MFD_ALLOW_SEALING), Op::kJudge));
  const int groups = ::getgroups(g_groups.size(), g_groups.data());
  POSTERN_TRY(require(groups >= 0, Op::kJudge));
  JudgeInput input{.magic = kJudgeInputMagic, .uid = caller.uid, .gid = caller.gid};
  input.descriptor_count = static_cast<std::uint32_t>(descriptors);
  input.group_count = static_cast<std::uint32_t>(groups);
  const std::size_t group_bytes = static_cast<std::size_t>(groups) * sizeof(gid_t);
  // SAFETY: writev(2) only reads through iov_base.
  const std::array<iovec, 3> parts{{{&input, sizeof input},
                                    {g_groups.data(), group_bytes},
                                    {const_cast<std::byte*>(request.data()), request.size()}}};
  const ssize_t written = ::writev(file.get(), parts.data(), parts.size());
  const bool whole = written == static_cast<ssize_t>(sizeof input + group_bytes + request.size());
  POSTERN_TRY(require(whole && ::fcntl(file.get(), F_ADD_SEALS, kSeals) == 0, Op::kJudge));
  return file;
}

// Exactly one verdict, copied once: what is checked is what is acted on, whoever still holds the file.
bool read_verdict(int file, Verdict& verdict) noexcept {
  std::byte more{};
  return ::pread(file, &verdict, sizeof verdict, 0) == sizeof verdict && ::pread(file, &more, 1, sizeof verdict) == 0 &&
         verdict.magic == kVerdictMagic;
}

// The payload's process. It has no privilege from here on, and nothing of the helper's but the pipe.
[[noreturn]] void run_payload(const Plan& plan, Caller caller, int go) noexcept {
  for (unsigned c = 0; ::prctl(PR_CAPBSET_READ, c) >= 0; ++c)
    if ((plan->capabilities & bit(c)) == 0) POSTERN_CHECK(::prctl(PR_CAPBSET_DROP, c) == 0);
  take_ids(caller, plan->capabilities, plan->capabilities, plan->capabilities);
  for (unsigned c = 0; c <= CAP_LAST_CAP; ++c)
    if ((plan->capabilities & bit(c)) != 0) POSTERN_CHECK(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) == 0);
  POSTERN_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
  POSTERN_CHECK(::dup2(kFirstDescriptor + plan->record_descriptor, kRecord) == kRecord);
  // INVARIANT: none of the three is the request's descriptor 0 (the root's), and `go` came after all of
  // them, so that no number is overwritten before it is copied. dup3(2) onto itself fails.
  POSTERN_CHECK(::dup3(kFirstDescriptor + plan->init_descriptor, kInit, O_CLOEXEC) == kInit);
  POSTERN_CHECK(::dup3(go, kGo, O_CLOEXEC) == kGo && ::close_range(kGo + 1, ~0U, 0) == 0);

  std::uint64_t root_mount = 0;
  POSTERN_CHECK(::read(kGo, &root_mount, sizeof root_mount) == sizeof root_mount && root_mount != 0);
  POSTERN_CHECK(mount_id("/") == root_mount && mount_id(".") == root_mount);
  std::array<char, 13> name{"postern-init"};
  std::array<char*, 2> argv{name.data(), nullptr};
  ::execveat(kInit, "", argv.data(), &argv.back(), AT_EMPTY_PATH);
  ::_exit(127);
}

// A procfs shows the pid namespace of whoever mounts it, and only a process born there is in it: one
// that shares our descriptor table puts the mount in the place of `slot`, and ends.
Result<UniqueFd> mount_procfs(int child) noexcept {
  POSTERN_TRY_ASSIGN(UniqueFd slot, own(::open("/", O_PATH | O_CLOEXEC), Op::kMount));
  POSTERN_TRY(require(::setns(child, CLONE_NEWPID) == 0, Op::kSpawn));
  const long maker = ::syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0);
  if (maker == 0) {
    const int context = ::fsopen("proc", FSOPEN_CLOEXEC);
    const bool made = ::fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0;
    const int mount = ::fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    const bool placed = made && ::dup3(mount, slot.get(), O_CLOEXEC) == slot.get();
    ::_exit(placed && ::close(mount) == 0 && ::close(context) == 0 ? 0 : errno);
  }
  int status = 0;
  POSTERN_TRY(require(maker > 0 && ::waitpid(static_cast<pid_t>(maker), &status, 0) == maker, Op::kMount));
  POSTERN_TRY(require(status == 0, Op::kMount, WEXITSTATUS(status)));
  return slot;
}

}  // namespace

// ORDER: gid before uid. KEEPCAPS carries the permitted set over; what is not kept goes at once.
void take_ids(Caller ids, std::uint64_t kept, std::uint64_t effective, std::uint64_t inheritable) noexcept {
  uid_t uid = 0, euid = 0, suid = 0;
  gid_t gid = 0, egid = 0, sgid = 0;
  POSTERN_CHECK(::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
  POSTERN_CHECK(::setresgid(ids.gid, ids.gid, ids.gid) == 0 && ::setresuid(ids.uid, ids.uid, ids.uid) == 0);
  set_capabilities(kept, effective, inheritable);
  POSTERN_CHECK(::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0 && ::prctl(PR_SET_DUMPABLE, 0) == 0);
  POSTERN_CHECK(::getresuid(&uid, &euid, &suid) == 0 && uid == ids.uid && euid == ids.uid && suid == ids.uid);
  POSTERN_CHECK(::getresgid(&gid, &egid, &sgid) == 0 && gid == ids.gid && egid == ids.gid && sgid == ids.gid);
  POSTERN_CHECK(::setresuid(0, 0, 0) == -1);
}

Result<> ask_judge(Caller caller, std::span<const std::byte> request, std::size_t descriptors,
                   Verdict& verdict) noexcept {
  struct stat user{};
  const bool found = ::lstat(kJudgeDirectory, &user) == 0 && S_ISDIR(user.st_mode);
  const bool separate = user.st_uid != 0 && user.st_gid != 0 && user.st_uid != caller.uid;
  if (!found || !separate) return refuse(HelperRefusal::kJudgeUser);
  const pid_t self = ::getpid();
  const auto fds = static_cast<int>(descriptors);
  POSTERN_TRY_ASSIGN(const UniqueFd input, write_request(caller, request, descriptors));
  POSTERN_TRY_ASSIGN(const UniqueFd answer, own(::memfd_create("verdict", MFD_CLOEXEC), Op::kJudge));
  const pid_t judge = ::fork();
  if (judge == 0) become_judge({user.st_uid, user.st_gid}, fds, answer.get(), input.get(), self);
  int status = -1;
  POSTERN_TRY(require(judge > 0 && ::waitpid(judge, &status, 0) == judge, Op::kJudge));
  return status == 0 && read_verdict(answer.get(), verdict) ? Result<>() : refuse(HelperRefusal::kJudgeFailed);
}

Result<Child> spawn_payload_child(const Plan& plan, Caller caller) noexcept {
  static constexpr std::array<std::array<int, 2>, 5> kFlags{{{kNamespacePid, CLONE_NEWPID},
                                                             {kNamespaceIpc, CLONE_NEWIPC},
                                                             {kNamespaceUts, CLONE_NEWUTS},
                                                             {kNamespaceNet, CLONE_NEWNET},
                                                             {kNamespaceCgroup, CLONE_NEWCGROUP}}};
  Child child{.namespaces = CLONE_NEWNS};
  for (const auto& [ours, flag] : kFlags)
    if ((plan->namespaces & ours) != 0) child.namespaces |= flag;
  if (plan->net_descriptor != kNoDescriptor)
    POSTERN_TRY(require(::setns(kFirstDescriptor + plan->net_descriptor, CLONE_NEWNET) == 0, Op::kSpawn));
  std::array<int, 2> ends{};
  POSTERN_TRY(require(::pipe2(ends.data(), O_CLOEXEC) == 0, Op::kSpawn));
  const UniqueFd wait(ends[0]);
  child.go.reset(ends[1]);
  int process = -1;
  const int flags = child.namespaces | CLONE_PARENT | CLONE_PIDFD | SIGCHLD;
  const long pid = ::syscall(SYS_clone, flags, nullptr, &process, nullptr, 0);
  if (pid == 0) run_payload(plan, caller, wait.get());
  child.pid = static_cast<pid_t>(pid);
  child.process.reset(process);
  POSTERN_TRY(require(pid > 0, Op::kSpawn));
  if ((plan->namespaces & kNamespacePid) != 0) {
    POSTERN_TRY_ASSIGN(child.procfs, mount_procfs(process));
  }
  return child;
}

}  // namespace postern::helper
