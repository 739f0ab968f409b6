// The whole setuid helper, main() and all, over a model of the kernel (fuzz/helper_machine). The
// first bytes say what is true of the world, which calls fail, pretend, fall short or are the last;
// the rest is the verdict of the judge, built by its rules and then, where asked, altered.
//
// Where a corpus is replayed (POSTERN_REPLAY), each input also runs with every call of it failing,
// pretending, falling short and killed, on each side of fork(2) and clone(2).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <linux/capability.h>

#include <fcntl.h>

#include "fuzz/helper_machine/model.h"
#include "fuzz/target.h"
#include "protocol/verdict_check.h"

namespace postern::machine {

namespace {

constexpr std::size_t kFacts = 32, kFaults = 64, kPatches = 96;  // where each part ends

// Zero behind the end: an empty input is a start that goes well.
struct Bytes {
  const std::uint8_t* data;
  std::size_t size;
  std::size_t at = 0;

  std::uint8_t get(std::size_t i) const { return i < size ? data[i] : 0; }

  std::uint8_t next() { return get(at++); }

  std::uint16_t next16() {
    const std::uint8_t low = next();
    return static_cast<std::uint16_t>(low | next() << 8);
  }

  bool left() const { return at < size; }
};

Facts read_facts(Bytes in) {
  Facts f;
  f.follow = static_cast<Who>(in.next() % 3);
  const std::uint8_t start = in.next();
  f.arguments = start & 1;
  f.no_new_privs = (start & 2) != 0;
  f.user_namespace = (start & 4) != 0;
  f.ids = (start >> 3) & 3;
  f.another_capability = (start & 32) != 0;
  f.helper_gone = (start & 64) != 0;
  f.extra_descriptor = (start & 128) != 0;
  const std::uint8_t around = in.next();
  f.closed = around & 7;
  f.peer = (around >> 3) & 3;
  f.unlisted = (around >> 5) & 3;
  f.writer = (around >> 7) != 0;
  f.message = in.next();
  f.groups = in.next() % 32;
  f.judge_directory = in.next();
  f.judge_end = in.next();
  f.child_answer = in.next();
  f.release = in.next();
  f.mappings = in.next();
  for (std::uint8_t& loop : f.loops) loop = in.next();
  f.layers_with_mounts = in.next16();
  f.missing = in.next16();
  f.missing |= static_cast<std::uint32_t>(in.next16()) << 16;
  f.elsewhere = in.next16();
  f.elsewhere |= static_cast<std::uint32_t>(in.next16()) << 16;
  f.node_device = in.next();
  f.file_bytes = in.next();
  return f;  // of the rest of kFacts: read_case
}

// Gives out descriptors, each to one role, and says what the frontend would send for it.
struct Roles {
  Case& run;

  std::uint16_t take(Sent kind) {
    run.sent.push_back(kind);
    return static_cast<std::uint16_t>(run.descriptors++);
  }
};

void build_image(Bytes& in, Verdict& v, Roles& roles) {
  const std::uint8_t how = in.next();
  v.image_offset = std::uint64_t{in.next()} * 4096;
  const std::uint64_t blocks = 8 + in.next16();
  v.image_bytes = blocks * 4096;
  std::uint64_t whole = v.image_bytes;
  if ((how & 1) != 0) {  // sealed
    auto& t = v.verity;
    t.data_blocks = 4 + in.next() % (blocks - 6);
    t.tree_offset = v.image_offset + t.data_blocks * 4096;
    t.tree_bytes = 4096;
    t.salt_bytes = in.next() % 33;
    for (std::size_t i = 0; i < 32; ++i) t.root_hash[i] = static_cast<std::uint8_t>(in.next() + i);
    for (std::size_t i = 0; i < t.salt_bytes; ++i) t.salt[i] = static_cast<std::uint8_t>(0x90U + i);
    whole = t.data_blocks * 4096;
  }
  if ((how & 2) != 0) {  // encrypted
    auto& c = v.crypt;
    c.sector_bytes = (how & 4) != 0 ? 4096 : 512;
    c.data_offset = 4096;
    c.data_bytes = whole - 4096;
    c.iv_offset = in.next();
    c.key_descriptor = roles.take(Sent::kMemfd);
  }
}

void build_operation(Bytes& in, Verdict& v, Roles& roles, std::size_t& arena) {
  constexpr std::array<const char*, 16> kTargets{
      "/etc/passwd", "/proc",    "/sys",         "/dev",
      "/tmp",        "/mnt/a/b", "/home/user/x", "/etc",
      "/dev/pts",    "/a",       "/dev/shm",     "/dev/mqueue",
      "/etc/group",  "/mnt/a",   "/data",        "/very/deep/place/of/it"};
  OperationEntry& e = v.operations[v.operation_count];
  e.operation = static_cast<Operation>(1 + in.next() % 9);
  const std::uint8_t flags = in.next();
  const std::string target = kTargets[in.next() % kTargets.size()];
  if (arena + target.size() + 2 > v.arena.size()) return;
  const bool file = e.operation == Operation::kFile, bind = e.operation == Operation::kBind,
             node = e.operation == Operation::kDevice;
  const unsigned allowed = postern::kOptional | postern::kNeedsTarget |
                           (file || bind ? 1U * postern::kReadOnly : 0U) |
                           (file || node ? 0U : 1U * postern::kDirectoryTarget);
  e.flags = static_cast<std::uint8_t>(flags & allowed);
  e.target = static_cast<std::uint32_t>(arena);
  target.copy(&v.arena[arena], target.size());
  arena += target.size() + 1;
  e.descriptor = postern::kNoDescriptor;
  if (bind) e.descriptor = roles.take((flags & 16) != 0 ? Sent::kPathOnly : Sent::kDirectory);
  if (file) e.descriptor = roles.take(Sent::kMemfd);
  if (node) e.descriptor = roles.take(Sent::kNode);
  if (e.operation == Operation::kTmpfs) {
    e.size = 1 + in.next16();
    e.mode = 01777U & (0700U | flags);
  }
  ++v.operation_count;
}

// A verdict that the check lets pass.
void build_verdict(Bytes& in, Case& run) {
  Verdict& v = run.verdict;
  Roles roles{run};
  v.magic = postern::kVerdictMagic;
  v.decision = postern::Decision::kAllow;
  v.upper_descriptor = v.net_descriptor = v.crypt.key_descriptor = postern::kNoDescriptor;
  v.layer_count = 1;
  v.scratch_bytes = 1 + in.next16();
  const std::uint8_t root = in.next(), shape = in.next();
  v.layers[0].kind = root % 3 == 0   ? RootKind::kDirectory
                     : root % 3 == 1 ? RootKind::kFuse
                                     : RootKind::kImage;
  v.layers[0].descriptor = roles.take(root % 3 == 0   ? Sent::kDirectory
                                      : root % 3 == 1 ? Sent::kFuse
                                                      : Sent::kRegular);
  if (root % 3 == 2) build_image(in, v, roles);
  v.overlay = root % 3 == 0 ? 0 : shape & 1;
  v.writable = (shape & 2) != 0 && (v.overlay == 1 || root % 3 == 0) ? 1 : 0;
  for (unsigned more = v.overlay == 1 ? (shape >> 2) & 3U : 0; more > 0; --more) {
    v.layers[v.layer_count].kind = RootKind::kFuse;
    v.layers[v.layer_count].descriptor = roles.take(Sent::kFuse);
    ++v.layer_count;
  }
  const std::uint8_t spaces = in.next();
  constexpr std::array<std::uint32_t, 5> kKinds{CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS,
                                                CLONE_NEWNET, CLONE_NEWCGROUP};
  for (std::size_t i = 0; i < kKinds.size(); ++i)
    if (((spaces >> i) & 1) != 0) v.namespaces |= kKinds[i];
  if ((spaces & 64) != 0 && (v.namespaces & CLONE_NEWNET) == 0)
    v.net_descriptor = roles.take(Sent::kNetwork);
  if ((spaces & 128) != 0 && (v.namespaces & CLONE_NEWUTS) != 0)
    std::memcpy(v.hostname.data(), "node7", 5);
  const std::uint8_t capabilities = in.next();
  v.capabilities = postern::kGrantable & (capabilities * 0x0101010101010101ULL);
  v.init_descriptor = roles.take(Sent::kRegular);
  v.record_descriptor = roles.take(Sent::kMemfd);
  std::size_t arena = 1;
  while (in.left() && v.operation_count < 24) build_operation(in, v, roles, arena);
  v.arena_bytes = static_cast<std::uint32_t>(arena);
}

// Alters single bytes, most often of the head and the tables, where the fields are.
void patch_verdict(Bytes in, Case& run) {
  auto* const bytes = reinterpret_cast<std::uint8_t*>(&run.verdict);
  constexpr std::size_t kHead = offsetof(Verdict, operations) + 24 * sizeof(OperationEntry);
  for (in.at = kFaults; in.at + 4 <= kPatches;) {
    const std::uint8_t kind = in.next();
    const std::uint16_t where = in.next16();
    const std::uint8_t value = in.next();
    if (kind % 4 == 1) bytes[where % kHead] ^= value;
    if (kind % 4 == 2) bytes[offsetof(Verdict, arena) + where % 512] = value;
    if (kind % 4 == 3) bytes[where % offsetof(Verdict, layers)] = value;
    run.patched = run.patched || kind % 4 != 0;
  }
}

Case read_case(const std::uint8_t* data, std::size_t size) {
  Bytes in{data, size};
  Case run;
  run.facts = read_facts(in);
  run.verdict = {};
  for (in.at = kFacts; in.at + 4 <= kFaults;) {
    FaultAt fault;
    fault.fault = static_cast<Fault>(in.next() % static_cast<unsigned>(Fault::kCount_));
    fault.call = in.next16() % 2048U;
    fault.value = in.next();
    if (fault.fault != Fault::kNone) run.faults.push_back(fault);
  }
  in.at = kPatches;
  build_verdict(in, run);
  const auto plan =
      postern::check_verdict(run.verdict, run.descriptors, postern::kNamespaces ^ CLONE_NEWUSER);
  if (!plan) broken("a verdict that was built by the rules passes the check");
  patch_verdict(in, run);
  const std::uint8_t which = in.get(29), kind = in.get(30), count = in.get(31) % 4;
  if (kind != 0)
    run.sent[which % run.sent.size()] =
        static_cast<Sent>(kind % static_cast<unsigned>(Sent::kCount_));
  // Of the facts, which process is followed, and what the helper meets in any world, count for
  // nothing.
  const auto wrong = [&](std::size_t i) { return in.get(i) != 0; };
  run.in_order = run.faults.empty() && !run.patched && kind == 0 && count == 0 &&
                 (in.get(1) & 0x5f) == 0 && (in.get(2) & 0x18) == 0 &&
                 (run.facts.unlisted == 0 || run.verdict.capabilities == 0);
  for (std::size_t i = 3; i < 9; ++i) run.in_order = run.in_order && (i == 4 || !wrong(i));
  for (std::size_t i = 9; i < 29; ++i) run.in_order = run.in_order && !wrong(i);
  if (count == 1) run.sent.push_back(Sent::kPipe), ++run.descriptors, run.patched = true;
  if (count == 2 && run.descriptors > 1) run.sent.pop_back(), --run.descriptors, run.patched = true;
  return run;
}

#ifdef POSTERN_REPLAY
void sweep(const Case& base) {
  for (const Who side : {Who::kHelper, Who::kJudge, Who::kPayload}) {
    Case one = base;
    one.facts.follow = side;
    one.faults.clear();
    one.in_order = base.in_order;
    const unsigned calls = run(one);
    for (unsigned call = 0; call < calls; ++call) {
      for (const Fault fault :
           {Fault::kFail, Fault::kPretend, Fault::kPretendAll, Fault::kShort, Fault::kKill}) {
        for (const std::uint8_t value :
             std::initializer_list<std::uint8_t>{0, 8, 9, 5}) {  // EPERM, ENOENT, EEXIST, EBUSY
          one.faults = {{fault, call, value}};
          one.in_order = false;
          run(one);
          if (fault != Fault::kFail) break;
        }
      }
    }
  }
}
#endif

void run_input(const std::uint8_t* data, std::size_t size) {
  const Case input = read_case(data, size);
  run(input);
#ifdef POSTERN_REPLAY
  sweep(input);
#endif
}

}  // namespace

}  // namespace postern::machine

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size <= 1024) {
    postern::machine::run_input(data, size);
  }
  return 0;
}
