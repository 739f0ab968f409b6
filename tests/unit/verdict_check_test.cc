#include "protocol/verdict_check.h"

#include <cstring>
#include <functional>
#include <memory>

#include <linux/capability.h>

#include <doctest/doctest.h>

#include "protocol/launch_request.h"

using postern::check_verdict;
using postern::CryptGeometry;
using postern::kNoDescriptor;
using postern::Op;
using postern::Operation;
using postern::OperationEntry;
using postern::RootKind;
using postern::Verdict;
using postern::VerityGeometry;

namespace {

constexpr std::uint32_t kSuid = postern::kNamespaces ^ CLONE_NEWUSER;
constexpr std::size_t kDescriptors = 6;

// Valid, and using every part: 0 image, 1 init, 2 record, 3 key, 4 bind, 5 layer.
std::unique_ptr<Verdict> valid() {
  auto v = std::make_unique<Verdict>();
  v->magic = postern::kVerdictMagic;
  v->decision = postern::Decision::kAllow;
  v->overlay = 1;
  v->namespaces = CLONE_NEWUTS | CLONE_NEWPID;
  v->upper_descriptor = kNoDescriptor;
  v->net_descriptor = kNoDescriptor;
  v->init_descriptor = 1;
  v->record_descriptor = 2;
  v->image_offset = 40960;
  v->image_bytes = 102 * 4096;  // with the hash tree
  v->verity = {
      .data_blocks = 100, .tree_offset = 40960 + 101 * 4096, .tree_bytes = 4096, .salt_bytes = 32};
  v->crypt = {.data_bytes = 4096, .data_offset = 8192, .sector_bytes = 512, .key_descriptor = 3};
  v->scratch_bytes = 1 << 20;
  v->capabilities = 1 << 13;
  std::strcpy(v->hostname.data(), "node-1.site");
  v->layer_count = 2;
  v->layers[0] = {RootKind::kImage, 0};
  v->layers[1] = {RootKind::kFuse, 5};
  std::strcpy(&v->arena[1], "/data/in");
  v->arena_bytes = postern::kArenaBytes;
  v->operation_count = 3;
  v->operations[0] = {Operation::kBind, postern::kReadOnly, 4, 1, 0, 0};
  v->operations[1] = {Operation::kTmpfs, 0, kNoDescriptor, 1, 01777, 4096};
  v->operations[2] = {Operation::kProc, 0, kNoDescriptor, 1, 0, 0};
  return v;
}

// A valid one for a directory root, where other combinations can be shown.
std::unique_ptr<Verdict> directory() {
  auto v = std::make_unique<Verdict>();
  v->magic = postern::kVerdictMagic;
  v->decision = postern::Decision::kAllow;
  v->layer_count = 1;
  v->layers[0] = {RootKind::kDirectory, 0};
  v->upper_descriptor = kNoDescriptor;
  v->net_descriptor = kNoDescriptor;
  v->init_descriptor = 1;
  v->record_descriptor = 2;
  v->scratch_bytes = 1 << 20;
  v->arena_bytes = postern::kArenaBytes;
  return v;
}

void target(Verdict& v, const char* text) {
  std::memset(&v.arena[1], 0, 5000);
  std::memcpy(&v.arena[1], text, std::strlen(text) + 1);
}

struct Case {
  const char* what;
  std::function<void(Verdict&)> spoil;
  unsigned item = 0;
};

// clang-format off
const Case kRefused[] = {
    {"magic", [](Verdict& v) { v.magic ^= 1; }},
    {"a refusal", [](Verdict& v) { v.decision = postern::Decision::kRefuse; }},
    {"decision out of range", [](Verdict& v) { v.decision = static_cast<postern::Decision>(2); }},
    {"root kind 0", [](Verdict& v) { v.layers[0].kind = static_cast<RootKind>(0); }},
    {"root kind out of range", [](Verdict& v) { v.layers[0].kind = static_cast<RootKind>(4); }},
    {"another root kind with an extent", [](Verdict& v) { v.layers[0].kind = RootKind::kFuse; }},
    {"overlay out of range", [](Verdict& v) { v.overlay = 2; }},
    {"writable out of range", [](Verdict& v) { v.writable = 2; }},
    {"layers without an overlay", [](Verdict& v) { v.overlay = 0; }},
    {"no layer", [](Verdict& v) { v.layer_count = 0; }},
    {"a root of another descriptor", [](Verdict& v) { v.layers[0].descriptor = 5; v.layers[1].descriptor = 0; }},
    {"a directory layer under an overlay, setuid", [](Verdict& v) { v.layers[1].kind = RootKind::kDirectory; }},
    {"a directory root under an overlay, setuid", [](Verdict& v) { v.image_bytes = 0; v.verity = {}; v.crypt = {}; v.layers[0].kind = RootKind::kDirectory; v.layers[1].descriptor = 3; v.operations[1] = {Operation::kBind, 0, 5, 1, 0, 0}; }},
    {"a layer that is an image", [](Verdict& v) { v.layers[1].kind = RootKind::kImage; }},
    {"an upper layer of the host, setuid", [](Verdict& v) { v.upper_descriptor = 5; v.layer_count = 1; }},
    {"scratch of no size", [](Verdict& v) { v.scratch_bytes = 0; }},
    {"scratch too large", [](Verdict& v) { v.scratch_bytes = postern::kMaxSessionBytes + 1; }},
    {"a user namespace, setuid", [](Verdict& v) { v.namespaces |= CLONE_NEWUSER; }},
    {"an unknown namespace", [](Verdict& v) { v.namespaces |= CLONE_VM; }},
    {"joins and makes a network namespace", [](Verdict& v) { v.namespaces |= CLONE_NEWNET; v.net_descriptor = 5; v.layer_count = 1; }},
    {"writable image", [](Verdict& v) { v.writable = 1; v.overlay = 0; v.layer_count = 1; }},
    {"unaligned image offset", [](Verdict& v) { v.image_offset += 1; }},
    {"empty image", [](Verdict& v) { v.image_bytes = 0; }},
    {"image past 2^60", [](Verdict& v) { v.image_offset = 1ULL << 60; }},
    {"image extent that wraps", [](Verdict& v) { v.image_offset = ~0ULL & ~511ULL; }},
    {"image bytes that wrap", [](Verdict& v) { v.image_bytes = ~0ULL; }},
    {"verity salt", [](Verdict& v) { v.verity.salt_bytes = 33; }},
    {"verity beyond the extent", [](Verdict& v) { v.verity.data_blocks = 103; }},
    {"verity data over the tree", [](Verdict& v) { v.verity.data_blocks = 102; }},
    {"verity blocks that wrap", [](Verdict& v) { v.verity.data_blocks = (1ULL << 52) + 1; }},
    {"verity tree unaligned", [](Verdict& v) { v.verity.tree_offset += 512; }},
    {"verity tree inside the data", [](Verdict& v) { v.verity.tree_offset = v.image_offset + 99 * 4096; }},
    {"verity tree past the extent", [](Verdict& v) { v.verity.tree_bytes = 3 * 4096; }},
    {"verity tree before the extent", [](Verdict& v) { v.verity.tree_offset = 0; }},
    {"verity tree of odd size", [](Verdict& v) { v.verity.tree_bytes += 512; }},
    {"verity tree bytes that wrap", [](Verdict& v) { v.verity.tree_bytes = ~0ULL & ~4095ULL; }},
    {"verity tree that wraps", [](Verdict& v) { v.verity.tree_offset = ~0ULL & ~511ULL; }},
    {"a key without an encrypted image", [](Verdict& v) { v.crypt.data_bytes = 0; }, 3},
    {"crypt key out of range", [](Verdict& v) { v.crypt.key_descriptor = 6; }},
    {"crypt key shared", [](Verdict& v) { v.crypt.key_descriptor = 4; }},
    {"crypt sector", [](Verdict& v) { v.crypt.sector_bytes = 1024; }},
    {"crypt sector 0", [](Verdict& v) { v.crypt.sector_bytes = 0; }},
    {"crypt offset unaligned", [](Verdict& v) { v.crypt.data_offset += 1; }},
    {"crypt bytes unaligned", [](Verdict& v) { v.crypt.data_bytes += 1; }},
    {"crypt bytes not of its sector", [](Verdict& v) { v.crypt.sector_bytes = 4096; v.crypt.data_bytes = 512; }},
    {"crypt past the verified blocks", [](Verdict& v) { v.crypt.data_offset = 100 * 4096; }},
    {"crypt that wraps", [](Verdict& v) { v.crypt.data_offset = ~0ULL & ~511ULL; }},
    {"crypt iv", [](Verdict& v) { v.crypt.iv_offset = 1ULL << 60; }},
    {"a capability that the kernel does not know", [](Verdict& v) { v.capabilities = 1ULL << 41; }},
    {"all capabilities", [](Verdict& v) { v.capabilities = ~0ULL; }},
    {"hostname of the host", [](Verdict& v) { v.namespaces = 0; }},
    {"an unused descriptor", [](Verdict& v) { v.layer_count = 1; }, 3},
    {"init out of range", [](Verdict& v) { v.init_descriptor = kNoDescriptor; }},
    {"init is the image", [](Verdict& v) { v.init_descriptor = 0; }},
    {"record is init", [](Verdict& v) { v.record_descriptor = 1; }},
    {"too many layers", [](Verdict& v) { v.layer_count = postern::kMaxLayers + 2; }},
    {"layer kind", [](Verdict& v) { v.layers[1].kind = static_cast<RootKind>(4); }},
    {"layer kind 0", [](Verdict& v) { v.layers[1].kind = static_cast<RootKind>(0); }},
    {"layer descriptor", [](Verdict& v) { v.layers[1].descriptor = 4; }, 0},
    {"too many operations", [](Verdict& v) { v.operation_count = postern::kMaxOperations + 1; }},
    {"arena begins with text", [](Verdict& v) { v.arena[0] = 'x'; }},
    {"arena does not end", [](Verdict& v) { v.arena[postern::kArenaBytes - 1] = 'x'; }},
    {"the used part of the arena does not end", [](Verdict& v) { v.arena_bytes = 5; }},
    {"no arena", [](Verdict& v) { v.arena_bytes = 0; }},
    {"an arena longer than there is", [](Verdict& v) { v.arena_bytes = postern::kArenaBytes + 1; }},
    {"a target behind the used part of the arena", [](Verdict& v) { v.arena_bytes = 10; v.operations[2].target = 10; }, 2},
    {"operation 0", [](Verdict& v) { v.operations[0].operation = static_cast<Operation>(0); }, 0},
    {"operation out of range", [](Verdict& v) { v.operations[1].operation = static_cast<Operation>(postern::kOperationCount + 1); }, 1},
    {"operation 255", [](Verdict& v) { v.operations[1].operation = static_cast<Operation>(255); }, 1},
    {"operation flag", [](Verdict& v) { v.operations[0].flags = 1 << 4; }, 0},
    {"flag of another operation", [](Verdict& v) { v.operations[2].flags = postern::kReadOnly; }, 2},
    {"bind without a descriptor", [](Verdict& v) { v.operations[0].descriptor = kNoDescriptor; }, 0},
    {"bind descriptor out of range", [](Verdict& v) { v.operations[0].descriptor = 6; }, 0},
    {"tmpfs with a descriptor", [](Verdict& v) { v.operations[1].descriptor = 4; }, 1},
    {"bind with a mode", [](Verdict& v) { v.operations[0].mode = 0755; }, 0},
    {"bind with a size", [](Verdict& v) { v.operations[0].size = 1; }, 0},
    {"setuid tmpfs", [](Verdict& v) { v.operations[1].mode = 04755; }, 1},
    {"tmpfs without a limit", [](Verdict& v) { v.operations[1].size = 0; }, 1},
    {"tmpfs too large", [](Verdict& v) { v.operations[1].size = postern::kMaxSessionBytes + 1; }, 1},
    {"proc with a size", [](Verdict& v) { v.operations[2].size = 1; }, 2},
    {"proc with a mode", [](Verdict& v) { v.operations[2].mode = 1; }, 2},
    {"target out of range", [](Verdict& v) { v.operations[0].target = postern::kArenaBytes; }, 0},
    {"target far out of range", [](Verdict& v) { v.operations[0].target = ~0U; }, 0},
    {"no target", [](Verdict& v) { v.operations[0].target = 0; }, 0},
    {"target /", [](Verdict& v) { target(v, "/"); }},
    {"relative target", [](Verdict& v) { target(v, "data"); }},
    {"target with ..", [](Verdict& v) { target(v, "/data/../etc"); }},
    {"target ending in ..", [](Verdict& v) { target(v, "/data/.."); }},
    {"target with .", [](Verdict& v) { target(v, "/./data"); }},
    {"target with an empty component", [](Verdict& v) { target(v, "/data//in"); }},
    {"target with a trailing slash", [](Verdict& v) { target(v, "/data/"); }},
    {"target with a long component", [](Verdict& v) { target(v, ("/" + std::string(256, 'x')).c_str()); }},
    {"target too long", [](Verdict& v) { std::string s; while (s.size() < postern::kMaxTargetBytes) s += "/abc"; target(v, s.c_str()); }},
};

const Case kAllowed[] = {
    {"as it is", [](Verdict&) {}},
    {"no verity", [](Verdict& v) { v.verity = VerityGeometry{}; }},
    {"verity of one block, without a tree", [](Verdict& v) { v.verity.tree_bytes = 0; }},
    {"short salt", [](Verdict& v) { v.verity.salt_bytes = 0; }},
    {"4096-byte crypt sectors", [](Verdict& v) { v.crypt.sector_bytes = 4096; }},
    {"all capabilities that a site can grant", [](Verdict& v) { v.capabilities = postern::kGrantable; }},
    {"no hostname", [](Verdict& v) { v.hostname = {}; v.namespaces = 0; }},
    {"longest hostname", [](Verdict& v) { v.hostname.fill('a'); }},
    {"target with dots in a name", [](Verdict& v) { target(v, "/..a/b.."); }},
    {"longest component", [](Verdict& v) { target(v, ("/" + std::string(255, 'x')).c_str()); }},
    {"joins a network namespace", [](Verdict& v) { v.net_descriptor = 5; v.layer_count = 1; }},
    {"writable overlay", [](Verdict& v) { v.writable = 1; }},
};
// clang-format on

}  // namespace

TEST_SUITE("protocol/verdict_check") {
  TEST_CASE("a valid verdict becomes a plan, with each of its permitted variations") {
    for (const Case& c : kAllowed) {
      CAPTURE(c.what);
      const auto v = valid();
      c.spoil(*v);
      const auto plan = check_verdict(*v, kDescriptors, kSuid);
      CHECK(plan);
      CHECK((plan && plan->operator->() == v.get()));
    }
  }

  TEST_CASE("each field out of its bounds is refused, and the operation at fault is named") {
    for (const Case& c : kRefused) {
      CAPTURE(c.what);
      const auto v = valid();
      c.spoil(*v);
      const auto plan = check_verdict(*v, kDescriptors, kSuid);
      REQUIRE_FALSE(plan);
      CHECK(plan.error().err == EBADMSG);
      CHECK(plan.error().op == Op::kCheckVerdict);
      CHECK(plan.error().item == c.item);
    }
  }

  TEST_CASE("what is writable is a directory, or an overlay") {
    const auto v = directory();
    v->writable = 1;
    CHECK(check_verdict(*v, 3, kSuid));
    v->layers[0].kind = RootKind::kFuse;
    CHECK_FALSE(check_verdict(*v, 3, kSuid));
    v->overlay = 1;
    CHECK(check_verdict(*v, 3, kSuid));
  }

  TEST_CASE(
      "an overlay over a directory is for a user namespace, where its mounter has no rights") {
    const auto v = directory();
    CHECK(check_verdict(*v, 3, kSuid));
    v->overlay = 1;
    CHECK_FALSE(check_verdict(*v, 3, kSuid));
    v->namespaces = CLONE_NEWUSER;
    CHECK(check_verdict(*v, 3, postern::kNamespaces));
    v->layer_count = 2;
    v->layers[1] = {RootKind::kDirectory, 3};
    CHECK(check_verdict(*v, 4, postern::kNamespaces));
    v->namespaces = 0;
    v->layers[0].kind = RootKind::kFuse;
    CHECK_FALSE(check_verdict(*v, 4, kSuid));
    v->layers[1].kind = RootKind::kFuse;
    CHECK(check_verdict(*v, 4, kSuid));
  }

  TEST_CASE("no verdict passes the ceiling, and the ceiling holds nothing that leads to root") {
    for (const unsigned never : {CAP_CHOWN,           CAP_DAC_OVERRIDE,
                                 CAP_DAC_READ_SEARCH, CAP_FOWNER,
                                 CAP_FSETID,          CAP_KILL,
                                 CAP_SETGID,          CAP_SETUID,
                                 CAP_SETPCAP,         CAP_LINUX_IMMUTABLE,
                                 CAP_NET_ADMIN,       CAP_IPC_OWNER,
                                 CAP_SYS_MODULE,      CAP_SYS_RAWIO,
                                 CAP_SYS_CHROOT,      CAP_SYS_ADMIN,
                                 CAP_SYS_BOOT,        CAP_SYS_PTRACE,
                                 CAP_SYS_PACCT,       CAP_SYS_RESOURCE,
                                 CAP_SYS_TIME,        CAP_MKNOD,
                                 CAP_SYS_TTY_CONFIG,  CAP_LEASE,
                                 CAP_AUDIT_WRITE,     CAP_SETFCAP,
                                 CAP_MAC_OVERRIDE,    CAP_MAC_ADMIN,
                                 CAP_SYSLOG,          CAP_AUDIT_CONTROL,
                                 CAP_PERFMON,         CAP_BPF,
                                 CAP_AUDIT_READ,      CAP_CHECKPOINT_RESTORE}) {
      CHECK((postern::kGrantable >> never & 1) == 0);
    }
    for (unsigned number = 0; number < 64; ++number) {
      CAPTURE(number);
      const auto v = valid();
      v->capabilities = std::uint64_t{1} << number;
      CHECK(check_verdict(*v, kDescriptors, kSuid).has_value() ==
            ((postern::kGrantable >> number & 1) != 0));
      const auto inside = directory();
      inside->namespaces = CLONE_NEWUSER;
      inside->capabilities = v->capabilities;
      CHECK(check_verdict(*inside, 3, postern::kNamespaces).has_value() ==
            (number <= CAP_LAST_CAP));
    }
  }

  TEST_CASE("every operation has its rule") {
    for (std::uint8_t number = 1; number <= postern::kOperationCount; ++number) {
      CAPTURE(number);
      const auto v = directory();
      const auto op = static_cast<Operation>(number);
      const bool takes =
          op == Operation::kBind || op == Operation::kFile || op == Operation::kDevice;
      std::strcpy(&v->arena[1], "/place");
      v->operation_count = 1;
      v->operations[0] = {op, 0, takes ? std::uint16_t{3} : kNoDescriptor,
                          1,  0, op == Operation::kTmpfs ? 4096U : 0U};
      CHECK(check_verdict(*v, takes ? 4 : 3, kSuid));
    }
  }

  TEST_CASE("verity and crypt belong to images") {
    const auto v = directory();
    CHECK(check_verdict(*v, 3, kSuid));
    v->verity = valid()->verity;
    CHECK_FALSE(check_verdict(*v, 3, kSuid));
    v->verity = VerityGeometry{};
    v->crypt = valid()->crypt;
    v->crypt.key_descriptor = 3;
    CHECK_FALSE(check_verdict(*v, 4, kSuid));
  }

  TEST_CASE("a persistent upper layer and the user bit belong to user-namespace mode") {
    const auto v = directory();
    v->overlay = 1;
    v->upper_descriptor = 3;
    CHECK_FALSE(check_verdict(*v, 4, kSuid));
    CHECK_FALSE(check_verdict(*v, 4, postern::kNamespaces));
    v->namespaces = CLONE_NEWUSER;
    CHECK(check_verdict(*v, 4, postern::kNamespaces));
    CHECK_FALSE(check_verdict(*v, 4, kSuid));
  }

  TEST_CASE("the descriptor count is the kernel's, not the verdict's") {
    const auto v = directory();
    CHECK_FALSE(check_verdict(*v, 2, kSuid));
    CHECK_FALSE(check_verdict(*v, 4, kSuid));
  }

  TEST_CASE("bytes of chance are never a plan") {
    auto v = std::make_unique<Verdict>();
    std::uint64_t state = 0x9e3779b97f4a7c15;
    for (unsigned round = 0; round < 2000; ++round) {
      auto* bytes = reinterpret_cast<unsigned char*>(v.get());
      for (std::size_t i = 0; i < offsetof(Verdict, operations) + 256; ++i) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        bytes[i] = static_cast<unsigned char>(state);
      }
      v->magic = postern::kVerdictMagic;
      v->decision = postern::Decision::kAllow;
      CHECK_FALSE(check_verdict(*v, round % 251U, kSuid));
    }
  }
}
