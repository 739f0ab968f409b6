#include "fuzz/helper_machine/model.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <unistd.h>

#include "protocol/base/check.h"

int postern_helper_main(int argc, char** argv);

namespace postern::machine {

thread_local Kernel* g_kernel = nullptr;
jmp_buf g_end;
std::vector<std::pair<void*, std::size_t>> g_statics;

namespace {

constexpr std::uint64_t kAll = (std::uint64_t{1} << (CAP_LAST_CAP + 1)) - 1;

#ifdef __aarch64__
constexpr std::uint32_t kArch = AUDIT_ARCH_AARCH64;
#else
constexpr std::uint32_t kArch = AUDIT_ARCH_X86_64;
#endif

// seccomp(2), for the instructions that a list of numbers and of their arguments' values needs; all
// else is a refusal. An argument is taken for one that the list allows: tests/boundary/filters
// tries the others.
bool allows(const std::vector<sock_filter>& program, std::uint32_t nr, std::uint32_t arch) {
  std::uint32_t accumulator = 0;
  bool argument = false;
  for (std::size_t i = 0; i < program.size(); ++i) {
    const sock_filter& f = program[i];
    if (f.code == (BPF_LD | BPF_W | BPF_ABS)) {
      argument = f.k >= offsetof(seccomp_data, args);
      accumulator = f.k == offsetof(seccomp_data, arch) ? arch : nr;
    } else if (f.code == (BPF_JMP | BPF_JEQ | BPF_K)) {
      i += argument || accumulator == f.k ? f.jt : f.jf;
    } else {
      return f.code == (BPF_RET | BPF_K) && f.k == SECCOMP_RET_ALLOW;
    }
  }
  return false;
}

}  // namespace

void broken(const char* sentence) {
  Kernel* const kernel = std::exchange(g_kernel, nullptr);
  std::fprintf(stderr, "helper_machine: broken: %s (call %u, system call %ld, process %d)\n",
               sentence, kernel != nullptr ? kernel->calls : 0,
               kernel != nullptr ? kernel->number : 0,
               kernel != nullptr ? static_cast<int>(kernel->who) : -1);
  if (kernel != nullptr)
    for (const FaultAt& fault : kernel->in.faults)
      std::fprintf(stderr, "  fault %d at call %u, value %u\n", static_cast<int>(fault.fault),
                   fault.call, fault.value);
  std::abort();
}

Kernel::Kernel(const Case& input) : in(input), permitted(kAll), bounding(kAll) {
  const Facts& f = in.facts;
  const unsigned real = f.ids == 1 ? 0 : caller_uid();
  const unsigned owner = f.ids == 2 ? caller_uid() : 0;
  uid = {real, owner, f.ids == 3 ? caller_uid() : owner};
  dumpable = owner == 0;  // else it has no privilege, and is its caller's to trace
  gid = {caller_gid(), caller_gid(), caller_gid()};
  if (f.another_capability) bounding |= std::uint64_t{1} << (CAP_LAST_CAP + 1);
  permitted = owner == 0 ? bounding : 0;
  effective = permitted;
  no_new_privs = f.no_new_privs;
  table.resize(384);
  mappings.reserve(16);  // the calls keep pointers into it
  // Left by makers that were killed: one of which nobody is left, one that is still being made.
  mappings.push_back({.name = "postern-7:9-77"});
  mappings.push_back({.name = "postern-7:8-78"});
  for (int fd = 0; fd < 3; ++fd)
    if (((f.closed >> fd) & 1) == 0) at(fd) = {.kind = Kind::kStandard};
  at(3) = {.kind = Kind::kSocket};
  for (int fd = 4; fd < 9; ++fd) at(fd) = {.kind = Kind::kStandard};  // inherited, of anything
}

FaultAt Kernel::enter(long nr) {
  number = nr;
  FaultAt found;
  for (const FaultAt& fault : in.faults)
    if (fault.call == calls && fault.fault != Fault::kNone) found = fault;
  ++calls;
  hold(calls < 200000, "the program ends");
  // ptrace(2): by who has the same ids and all of its capabilities. fs.suid_dumpable is 1 here.
  hold(!dumpable || permitted != 0 || uid.real != uid.saved || lied,
       "no process of ours can be traced before the payload's exec");
  hold(filter.empty() || allowed_by_filter(nr, kArch),
       "after the lock, only what helper/SYSCALLS lists is called");
  hold(!released || nr == SYS_close || nr == SYS_exit_group,
       "after the release nothing is done but to end");
  for (const Mapping& m : mappings) {
    if (!m.ours || m.armed || m.removed) continue;
    hold((uid.real == 0 && uid.saved == 0 && signals_blocked) || lied,
         "while a mapping is not armed for removal, no signal of the caller's reaches the helper");
  }
  if (found.fault == Fault::kKill) end(137, true);
  if (found.fault == Fault::kPretendAll || found.fault == Fault::kPretend) {
    // One lie a run: a kernel that lies consistently about everything has no proof to offer.
    if (lied) return {};
    lied = true;
    if (found.fault == Fault::kPretendAll) pretend_always_ = nr;
    found.fault = Fault::kPretend;
  }
  if (nr == pretend_always_) found.fault = Fault::kPretend;
  return found;
}

int Kernel::error_of(std::uint8_t value) {
  constexpr std::array kErrors{EPERM,  EINTR,      EIO,    ENOMEM, EACCES, EBUSY,  EAGAIN, EINVAL,
                               ENOENT, EEXIST,     ENODEV, ENOSPC, ENFILE, EMFILE, ENOSYS, ELOOP,
                               EROFS,  EOPNOTSUPP, ENXIO,  EFBIG,  EFAULT, ESRCH,  ECHILD, EUCLEAN};
  return kErrors[value % kErrors.size()];
}

long Kernel::fail(int error) {
  errno = error;
  return -1;
}

Descriptor& Kernel::at(int fd) {
  static Descriptor none;
  none = {};
  return fd >= 0 && fd < static_cast<int>(table.size()) ? table[static_cast<std::size_t>(fd)]
                                                        : none;
}

int Kernel::lowest_free(int from) {
  int fd = from;
  while (fd < static_cast<int>(table.size()) && at(fd).kind != Kind::kClosed) ++fd;
  hold(fd < static_cast<int>(table.size()), "descriptors are not leaked without bound");
  return fd;
}

int Kernel::add(Kind kind, bool close_on_exec, int index) {
  const int fd = lowest_free();
  at(fd) = {.kind = kind, .close_on_exec = close_on_exec, .index = index};
  return fd;
}

bool Kernel::allowed_by_filter(long nr, std::uint32_t arch) const {
  return allows(filter, static_cast<std::uint32_t>(nr), arch);
}

// What fork(2) and clone(2) give the child.
void Kernel::become(Who next) {
  who = next;
  death_signal = parent_seen = false;
  alarm_set = false;
}

void Kernel::forget(std::uintptr_t begin, std::size_t bytes) {
  std::erase_if(secrets,
                [&](const Range& r) { return r.begin >= begin && r.end <= begin + bytes; });
}

void Kernel::check_exec_judge() {
  const Ids judge{kJudgeId, kJudgeId, kJudgeId};
  hold(who == Who::kJudge, "only the judge's process executes the judge");
  hold(uid == judge && gid == judge, "the judge has its own ids and no other");
  hold(groups_dropped || in.facts.groups == 0, "the judge has no supplementary group");
  hold((permitted | effective | inheritable | ambient) == 0, "the judge has no capability");
  JudgeInput told;
  std::memcpy(&told, judge_input.data(), std::min(judge_input.size(), sizeof told));
  hold(told.open_for_writing == (in.facts.writer ? 1U : 0U) || lied || !in.faults.empty(),
       "the judge is told whether the root's file is open for writing");
  hold(no_new_privs || lied, "the judge cannot gain privileges by exec");
  hold((death_signal && parent_seen) || lied, "the judge ends with the helper");
  hold(cwd == Cwd::kSlash || lied, "the judge starts in /");
  hold((::environ == nullptr), "the caller's environment does not reach the judge");
  for (int fd = 0; fd < static_cast<int>(table.size()); ++fd) {
    const Descriptor& d = at(fd);
    const Kind want = fd < kJudgeFd           ? Kind::kNull
                      : fd == kJudgeFd        ? Kind::kJudgeFile
                      : fd == kJudgeRequestFd ? Kind::kRequest
                      : fd - kJudgeDescriptorBase < static_cast<int>(in.descriptors)
                          ? Kind::kSent
                          : Kind::kClosed;
    hold(d.kind == want && (want == Kind::kClosed || !d.close_on_exec),
         "the judge's descriptors are those of protocol/judge_input.h");
    hold(want != Kind::kSent || d.index == fd - kJudgeDescriptorBase,
         "a request descriptor has the number of its index");
  }
}

void Kernel::check_exec_init() {
  const Ids caller_u{caller_uid(), caller_uid(), caller_uid()};
  const Ids caller_g{caller_gid(), caller_gid(), caller_gid()};
  const std::uint64_t granted = in.verdict.capabilities;
  hold(who == Who::kPayload, "only the payload's process executes postern-init");
  hold(uid == caller_u && gid == caller_g, "the payload has the caller's ids and no other");
  hold(((permitted | effective | inheritable | ambient) & ~granted) == 0,
       "the payload has no capability that was not granted");
  hold((granted & ~kGrantable) == 0 && (granted == 0 || in.facts.unlisted == 0),
       "no verdict grants what the ceiling or root's list does not hold");
  hold((death_signal && parent_seen) || lied, "the payload ends with the frontend");
  hold(restored_limits == kLimitsThatCount, "the payload has the caller's resource limits");
  hold((bounding & ~granted) == 0,
       "the payload's bounding set holds no capability that was not granted");
  hold(no_new_privs, "the payload cannot gain privileges by exec");
  hold(filter.empty(), "the payload does not inherit the helper's filter");
  hold(in_child_namespace, "the payload runs in a mount namespace of its own");
  hold(state_written && state_error == 0 && furnished_root,
       "the payload runs only where its namespaces are furnished");
  hold(release_read && release_id != 0, "the payload runs only when it is released");
  hold(seen_root && seen_cwd,
       "the payload compares its root and working directory with the released mount");
  hold(root_id_seen == release_id, "the payload runs in the root that was released");
  for (int fd = 0; fd < static_cast<int>(table.size()); ++fd) {
    const Descriptor& d = at(fd);
    if (fd < 3) {
      hold(d.kind == Kind::kStandard || d.kind == Kind::kNull,
           "descriptors 0 to 2 of the payload are the caller's");
    } else if (fd == 3) {
      hold(d.kind == Kind::kSent && d.index == in.verdict.record_descriptor && !d.close_on_exec,
           "descriptor 3 of the payload is the launch record");
    } else if (fd == 4) {
      hold(d.kind == Kind::kSent && d.index == in.verdict.init_descriptor && d.close_on_exec,
           "what is executed is the request's init, which is closed by that");
    } else {
      hold(d.kind == Kind::kClosed || d.close_on_exec,
           "the payload inherits no descriptor of the helper's");
      hold(d.kind == Kind::kClosed || d.kind == Kind::kChannel,
           "the waiting payload holds no descriptor of the helper's but the channel");
    }
  }
}

void Kernel::check_end(int status, bool killed) {
  for (const Mapping& m : mappings)
    hold(!m.ours || m.armed || m.removed || killed || arming_failed,
         "a mapping is never left without armed removal");
  for (const Loop& l : loops)
    hold(!l.ours || (l.autoclear && l.read_only), "a loop device of ours goes with its last user");
  hold(!mappings[1].removed, "a mapping that is being made is left alone");
  if (killed) return;
  const bool bug = status == kExitBug;
  if (who != Who::kHelper) {
    hold(bug || status == 127, "a child that executes nothing ends with 127, or 254 for a bug");
    return;
  }
  hold(bug || secrets.empty(), "key bytes are wiped");
  if (bug) return;
  if (status == 0) {
    hold(replied && reply.refusal == 0 && reply.err == 0 && reply.pid == kPayloadPid,
         "exit status 0 means that the frontend was told of the payload");
    hold(released, "exit status 0 means that the payload runs");
    return;
  }
  hold(status >= 1 && status <= 50, "the exit status is one of helper/README.md");
  hold(!released, "a start that failed releases no payload");
  hold(replied || reply_failed, "a start that failed says so");
  if (replied && status < 50)
    hold(reply.refusal == status && reply.err == 0, "exit status and reply name the same refusal");
  if (replied && status == 50)
    hold(reply.err != 0 || reply.refusal >= 50,
         "exit status 50 comes with an errno or a refusal of the site's");
}

void Kernel::end(int status, bool killed) {
  check_end(status, killed);
  ::longjmp(g_end, 1);
}

unsigned run(const Case& input) {
  for (const auto& [start, bytes] : g_statics) std::memset(start, 0, bytes);
  Kernel kernel(input);
  static char name[] = "postern-helper", more[] = "--help";
  static std::array<char*, 3> argv;
  argv = {name, input.facts.arguments != 0 ? more : nullptr, nullptr};
  char** const environment = ::environ;
  errno = 0;
  if (::setjmp(g_end) == 0) {
    g_kernel = &kernel;
    const int status = postern_helper_main(input.facts.arguments != 0 ? 2 : 1, argv.data());
    kernel.end(status, false);
  }
  hold(!input.in_order || kernel.executed || kernel.released,
       "a start where nothing is wrong succeeds");
  const bool maps = kernel.mappings.size() > 2 && kernel.mappings.back().ours;
  hold(!input.in_order || !maps || kernel.mappings[0].removed,
       "who makes a mapping removes those that are left of killed makers");
  g_kernel = nullptr;
  ::environ = environment;
  return kernel.calls;
}

}  // namespace postern::machine
