// A model of the kernel under the setuid helper: what each of its calls does to the process and to
// the machine, as far as the claim of helper/README.md is about it, and the faults that an input
// asks for. Invariants are asserted at every call and at the end of the process; a broken one ends
// the program with its sentence.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <linux/filter.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <setjmp.h>

#include "protocol/judge_input.h"
#include "protocol/verdict.h"

namespace postern::machine {

// RLIMIT_CPU, FSIZE, DATA, STACK, NPROC, NOFILE, AS and RTTIME, as bits.
inline constexpr std::uint64_t kLimitsThatCount = 0x82cf;

// The process that one run follows: at fork(2) and clone(2) it takes the child's side or the
// parent's.
enum class Who : std::uint8_t { kHelper, kJudge, kPayload };

// What is wrong with one call; one a run.
// - kFail: it fails with an errno.
// - kPretend, kPretendAll: it claims success and does nothing: once, or at every call of its
// number.
// - kShort: it reads or writes less, if the kernel may do that.
// - kKill: the process is killed instead.
enum class Fault : std::uint8_t { kNone, kFail, kPretend, kPretendAll, kShort, kKill, kCount_ };

struct FaultAt {
  Fault fault = Fault::kNone;
  unsigned call = 0;  // counted over all modelled calls of the run
  std::uint8_t value = 0;
};

// What a descriptor that the frontend sent is.
enum class Sent : std::uint8_t {
  kRegular,
  kDirectory,
  kMemfd,
  kFuse,
  kNetwork,
  kNode,
  kWriteOnly,
  kPathOnly,
  kOnFuse,
  kPipe,
  kCount_
};

// The world around the run. All zero: everything is as it should be.
struct Facts {
  Who follow = Who::kHelper;
  std::uint8_t arguments = 0;     // beyond the one
  bool no_new_privs = false;      // at the start
  bool user_namespace = false;    // not the first one
  std::uint8_t ids = 0;           // 1 real root, 2 not setuid, 3 saved id not root
  std::uint8_t closed = 0;        // bit n: descriptor n of 0 … 2
  std::uint8_t message = 0;       // see calls.cc, recvmsg
  std::uint8_t peer = 0;          // of descriptor 3: 1 another user's, 2 another process's
  std::uint8_t unlisted = 0;      // capabilities: 1 no file, 2 the caller's, 3 a link
  bool writer = false;            // some process has the root's file open for writing
  bool extra_descriptor = false;  // SO_PASSPIDFD: behind the ones that were sent
  std::uint8_t groups = 0;        // supplementary groups
  std::uint8_t judge_directory = 0;
  std::uint8_t judge_end = 0;
  std::uint8_t child_answer = 0;
  std::uint8_t release = 0;
  bool another_capability = false;  // the kernel knows one that the helper was not compiled with
  bool helper_gone = false;         // before the judge asks
  std::array<std::uint8_t, 4> loops{};  // LoopState of /dev/loop0 …, modulo
  std::uint8_t mappings = 0;  // MappingState of the first name asked for, then of the next
  std::uint16_t layers_with_mounts = 0;
  std::uint32_t missing = 0;    // bit n modulo 32: the n-th look-up inside the root finds nothing
  std::uint32_t elsewhere = 0;  // … leads to a mount that is not the overlay
  std::uint8_t node_device = 0;
  std::uint8_t file_bytes = 0;  // of a memfd: 0 some, 1 none, 2 too many
};

enum class LoopState : std::uint8_t {
  kFree,
  kSame,  // made by an earlier start of the same
  kOther,
  kWritable,
  kOtherExtent,
  kOtherInode,
  kOtherCaller,
  kOtherTime,
  kNoNode,
  kRaced,       // free when it is asked, kSame when it is configured
  kRacedOther,  // … kOther
  kCount_
};

// A mapping under the name that is asked for first, and under the next.
enum class MappingState : std::uint8_t {
  kNone,
  kEqual,
  kUnequal,
  kNoTable,
  kOtherType,
  kOtherLength,
  kWritable,
  kSuspended,
  kTwoTargets,
  kLate,         // kEqual, made while ours is
  kLateUnequal,  // kUnequal, …
  kCount_
};

// One run's input, decoded.
struct Case {
  Facts facts;
  std::vector<FaultAt> faults;
  Verdict verdict;  // what the judge answers
  std::size_t descriptors = 0;
  std::vector<Sent> sent;
  bool in_order = false;  // nothing is wrong with the world, so the start must succeed
  bool patched = false;   // the verdict was altered after it was built by the rules
};

// Runs helper/main.cc once. Ends the program where an invariant does not hold; else returns how
// many calls the run made.
unsigned run(const Case& input);

// ------------------------------------------------------------------ for model.cc and calls.cc only

enum class Kind : std::uint8_t {
  kClosed,
  kNull,
  kStandard,
  kSocket,
  kRequest,
  kSent,
  kExtra,
  kJudgeFile,
  kChannel,
  kPid,
  kLoopControl,
  kLoop,
  kDmControl,
  kMapping,
  kContext,
  kMount,
  kPlace,
  kFile,
  kSize,
  kLog
};

struct Descriptor {
  Kind kind = Kind::kClosed;
  bool close_on_exec = false;
  bool top = false;         // kPlace: of the new root itself
  bool on_overlay = false;  // kPlace
  int index = -1;           // of what was sent, of the loop device, mapping, context or mount
};

struct Ids {
  unsigned real, effective, saved;
  bool operator==(const Ids&) const = default;
};

struct Mount {
  std::string type;       // of a file system, or "clone"
  std::string path;       // of what was cloned, empty where it is a descriptor that was sent
  int sent = -1;          // whose clone it is
  std::uint64_t all = 0;  // attributes that every mount of it has
  std::uint64_t top = 0;  // … that its topmost has
  bool slave = false;
  bool attached = false;
};

struct Context {
  std::string type;
  std::vector<std::pair<std::string, std::string>> options;
  bool created = false;
};

struct Loop {
  bool bound = false, read_only = false, autoclear = false, ours = false;
  std::uint64_t device = 0, inode = 0, offset = 0, bytes = 0;
  std::string name;
  bool added = false;
};

struct Mapping {
  std::string name, type, parameters;
  std::uint64_t sectors = 0;
  bool ours = false, live = false, read_only = false, armed = false, removed = false;
  bool loaded = false, suspended = false;
  unsigned targets = 1;
  int opened = 0;
};

enum class Cwd : std::uint8_t { kCallers, kSlash, kSession, kTop, kDetached };

class Kernel {
 public:
  explicit Kernel(const Case& input);

  const Case& in;
  Who who = Who::kHelper;
  unsigned calls = 0;
  long number = 0;  // of the call that is being made

  // --- the process
  Ids uid{}, gid{};
  bool groups_dropped = false;
  std::uint64_t permitted = 0, effective = 0, inheritable = 0, ambient = 0, bounding = 0;
  bool keep_capabilities = false, no_new_privs = false, dumpable = false;
  std::vector<sock_filter> filter;  // installed, or claimed to be
  std::vector<Descriptor> table;
  bool death_signal = false, parent_seen = false, alarm_set = false;
  bool signals_blocked = true;
  std::uint64_t signals_default = 0, lifted_limits = 0, restored_limits = 0;
  unsigned timers_off = 0;
  unsigned mask = 022;
  Cwd cwd = Cwd::kCallers;
  bool in_child_namespace = false, network_joined = false;

  // --- what happened
  std::size_t delivered = 0;  // descriptors, the request's own among them
  bool received = false, judged = false, cloned = false, child_furnished = false,
       furnished_root = false;
  bool executed = false;
  bool state_written = false, release_read = false;
  int state_error = 0, child_error = 0;
  bool ids_taken = false;
  bool seen_root = false, seen_cwd = false;
  std::uint64_t release_id = 0, root_id_seen = 0;
  bool replied = false, reply_failed = false, released = false, sealed = false;
  Reply reply{};
  std::uint64_t released_id = 0;
  std::string judge_input;

  // --- the machine
  std::vector<Mount> mounts;
  std::vector<Context> contexts;
  std::array<Loop, 8> loops;
  std::vector<Mapping> mappings;
  std::vector<std::string> names_asked;
  std::vector<long> locked;  // numbers of makers
  bool session_attached = false, session_lowered = false, top_attached = false,
       root_attached = false, pivoted = false, top_detached = false;
  unsigned uncovered = 0;
  std::vector<std::string> created;
  unsigned lookups = 0;
  std::string expected_source;
  std::uint64_t file_sent = 0;
  bool arming_failed = false;

  // Address ranges that hold key bytes.
  struct Range {
    std::uintptr_t begin, end;
  };

  std::vector<Range> secrets;

  // The result of a call: `effect` returns it, or -errno. A fault takes its place.
  template <class Effect>
  long call(long nr, Effect effect, bool can_pretend = false, bool can_fail = true) {
    const FaultAt fault = enter(nr);
    if (fault.fault == Fault::kFail && can_fail) return fail(error_of(fault.value));
    if (fault.fault == Fault::kPretend && can_pretend) return 0;
    short_by = fault.fault == Fault::kShort ? 1U + fault.value : 0;
    const long result = effect();
    return result < 0 ? fail(static_cast<int>(-result)) : result;
  }

  bool lied = false;         // a call of this run claimed what it did not do
  std::size_t short_by = 0;  // how much less the call in progress may read or write

  [[noreturn]] void end(int status, bool killed);
  int lowest_free(int from = 0);
  int add(Kind kind, bool close_on_exec, int index = -1);
  Descriptor& at(int fd);

  bool is(int fd, Kind kind) { return at(fd).kind == kind; }

  void become(Who next);
  bool allowed_by_filter(long nr, std::uint32_t arch) const;

  bool has(unsigned capability) const { return ((effective >> capability) & 1U) != 0; }

  void check_exec_judge();
  void check_exec_init();
  void check_end(int status, bool killed);
  void forget(std::uintptr_t begin, std::size_t bytes);

  unsigned caller_uid() const { return 1000; }

  unsigned caller_gid() const { return 1000; }

  static constexpr unsigned kJudgeId = 990;

 private:
  FaultAt enter(long nr);
  static int error_of(std::uint8_t value);
  static long fail(int error);

  long pretend_always_ = -1;
};

// Null where the calls are the real ones.
extern thread_local Kernel* g_kernel;
extern jmp_buf g_end;
// The helper's own statics, cleared for the next run.
extern void* g_verdict_seen;
extern std::vector<std::pair<void*, std::size_t>> g_statics;

// An invariant: the sentence is what is said where it does not hold.
[[noreturn]] void broken(const char* sentence);

inline void hold(bool holds, const char* sentence) {
  if (!holds) broken(sentence);
}

// Mount ids, as statx(2) gives them.
inline constexpr std::uint64_t kHostRoot = 21, kChildRoot = 57, kNewRoot = 90, kOldRoot = 91;
// Device numbers of file systems.
inline constexpr dev_t kImageDevice = 0x801, kOverlayDevice = 0x31, kSessionDevice = 0x32,
                       kForeignDevice = 0x802, kDevtmpfs = 6, kDevpts = 24;
inline constexpr ino_t kImageInode = 4711;
inline constexpr pid_t kFrontendPid = 3999, kHelperPid = 4000, kJudgePid = 4001, kPayloadPid = 4002;

}  // namespace postern::machine
