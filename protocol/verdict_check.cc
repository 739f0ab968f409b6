#include "protocol/verdict_check.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <linux/capability.h>

namespace postern {

namespace {

// offset + length stay far from 2^63 (loff_t)
constexpr std::uint64_t kMaxExtentBytes = 1ULL << 60;
constexpr std::uint32_t kBlock = 4096, kSector = 512;  // dm-verity data and hash blocks; of a disk

bool fits(std::uint64_t offset, std::uint64_t bytes, std::uint64_t whole) noexcept {
  return bytes > 0 && offset <= whole && bytes <= whole - offset;
}

// Every descriptor is used, and used once: a second use would let one source be checked in one role
// and act in another.
struct DescriptorUse {
  std::size_t count;
  std::size_t taken = 0;
  std::array<bool, kMaxDescriptors> used{};  // INVARIANT: count is no more (check_whole)

  bool take(std::uint16_t i) noexcept {
    return i < count && !std::exchange(used[i], true) && ++taken != 0;
  }

  bool take_optional(std::uint16_t i) noexcept { return i == kNoDescriptor || take(i); }
};

static_assert(kMaxDescriptors < kNoDescriptor);

// Absolute, below "/", short, and already normal: no empty, "." or ".." component, no trailing
// slash.
bool is_target(std::string_view path) noexcept {
  bool good = !path.empty() && path.size() < kMaxTargetBytes;
  while (good && !path.empty()) {
    const std::string_view name = path.substr(1, path.find('/', 1) - 1);
    good =
        path.front() == '/' && !name.empty() && name != "." && name != ".." && name.size() <= 255;
    path.remove_prefix(name.size() + 1);
  }
  return good;
}

// What an operation may set; all else in its entry must be zero. One without a row is refused
// (CVE-2026-41163).
struct OperationRule {
  Operation operation;
  bool descriptor;  // takes exactly one, or none
  std::uint8_t flags;
  std::uint32_t mode;
  std::uint64_t size;  // at most, and not 0
};

constexpr std::uint8_t kCopied = kOptional | kNeedsTarget;
constexpr std::uint8_t kPlace = kCopied | kDirectoryTarget;

// clang-format off
constexpr std::array kOperations = std::to_array<OperationRule>({
  {Operation::kBind,    true,  kPlace | kReadOnly,  0,     0},                 // open_tree(2)
  {Operation::kFile,    true,  kCopied | kReadOnly, 0,     0},                 // copied: sendfile(2)
  {Operation::kTmpfs,   false, kPlace,              01777, kMaxSessionBytes},  // tmpfs(5)
  {Operation::kProc,    false, kPlace,              0,     0},                 // proc(5)
  {Operation::kSysfs,   false, kPlace | kReadOnly,  0,     0},                 // sysfs(5)
  {Operation::kDevHost, false, kPlace,              0,     0},                 // our constant
  {Operation::kDevice,  true,  kCopied,             0,     0},                 // node: mounts.cc
  {Operation::kDevpts,  false, kPlace,              0,     0},                 // pts(4)
  {Operation::kMqueue,  false, kPlace,              0,     0},                 // mq_overview(7)
});
// clang-format on

// INVARIANT: the last byte of the arena that is used is NUL (check_whole), so a text ends inside
// it.
bool check_operation(const Verdict& v, const OperationEntry& e, DescriptorUse& use) noexcept {
  const auto* const rule = std::ranges::find(kOperations, e.operation, &OperationRule::operation);
  return rule != kOperations.end() && (e.flags & ~rule->flags) == 0 &&
         (e.mode & ~rule->mode) == 0 && e.size <= rule->size &&
         (e.size == 0) == (rule->size == 0) && e.target < v.arena_bytes &&
         is_target(&v.arena[e.target]) &&
         (rule->descriptor ? use.take(e.descriptor) : e.descriptor == kNoDescriptor);
}

// Extent, verity and crypt, each inside the one before; none where the root is no image.
bool check_image(const Verdict& v, DescriptorUse& use) noexcept {
  const VerityGeometry& t = v.verity;
  const CryptGeometry& c = v.crypt;
  if (v.layers[0].kind != RootKind::kImage)
    return v.image_bytes == 0 && t.data_blocks == 0 && c.data_bytes == 0;
  const std::uint64_t whole = t.data_blocks != 0 ? t.data_blocks * kBlock : v.image_bytes;
  // Wraps to out of range if it lies before.
  const std::uint64_t tree = t.tree_offset - v.image_offset;
  const bool sealed =
      fits(0, t.data_blocks, v.image_bytes / kBlock) && t.salt_bytes <= t.salt.size() &&
      tree >= t.data_blocks * kBlock && tree % kBlock == 0 && t.tree_bytes % kBlock == 0 &&
      fits(tree, t.tree_bytes + kBlock, v.image_bytes + kBlock);  // one data block has no tree
  const bool encrypted = (c.sector_bytes == kSector || c.sector_bytes == kBlock) &&
                         c.data_offset % kSector == 0 && c.data_bytes % c.sector_bytes == 0 &&
                         fits(c.data_offset, c.data_bytes, whole) &&
                         c.iv_offset <= kMaxExtentBytes / kSector && use.take(c.key_descriptor);
  return v.image_offset % kSector == 0 && fits(v.image_offset, v.image_bytes, kMaxExtentBytes) &&
         (t.data_blocks == 0 || sealed) && (c.data_bytes == 0 || encrypted);
}

// Without an overlay there is one layer, which is writable only if it is a directory.
// INVARIANT I14: an overlay acts with the credentials of its mounter for as long as it lives
// (overlayfs.txt of the kernel, "Permission model"). Only a user namespace's overlay, whose mounter
// has no rights outside, may lie over a host directory or have an upper layer there.
bool check_layers(const Verdict& v, DescriptorUse& use) noexcept {
  const bool lends = (v.namespaces & CLONE_NEWUSER) == 0;
  bool good = v.layer_count >= 1 && v.layer_count <= v.layers.size() && v.layers[0].descriptor == 0;
  for (std::size_t i = 0; good && i < v.layer_count; ++i) {
    const LayerEntry& l = v.layers[i];
    const RootKind lowest = i == 0 ? RootKind::kImage : RootKind::kFuse;
    const RootKind highest = lends && v.overlay == 1 ? RootKind::kFuse : RootKind::kDirectory;
    good = l.kind >= lowest && l.kind <= highest && use.take(l.descriptor);
  }
  return good && v.overlay <= 1 && v.writable <= 1 && fits(0, v.scratch_bytes, kMaxSessionBytes) &&
         (v.overlay == 1 || (v.layer_count == 1 &&
                             v.writable <= (v.layers[0].kind == RootKind::kDirectory ? 1 : 0))) &&
         use.take_optional(v.upper_descriptor) &&
         (v.upper_descriptor == kNoDescriptor || (v.overlay == 1 && !lends));
}

// A host name only in a namespace of its own. What is in it is the kernel's to bound.
bool check_namespaces(const Verdict& v, std::uint32_t allowed, DescriptorUse& use) noexcept {
  return (v.namespaces & ~allowed) == 0 && ((v.namespaces ^ allowed) & CLONE_NEWUSER) == 0 &&
         use.take_optional(v.net_descriptor) &&
         (v.net_descriptor == kNoDescriptor || (v.namespaces & CLONE_NEWNET) == 0) &&
         (v.hostname.front() == '\0' || (v.namespaces & CLONE_NEWUTS) != 0);
}

// INVARIANT I15: no verdict passes the ceiling. In a user namespace a capability reaches nothing of
// the host's, so that all that exist may be granted.
std::uint64_t may_grant(const Verdict& v) noexcept {
  constexpr std::uint64_t kAll = (std::uint64_t{1} << (CAP_LAST_CAP + 1)) - 1;
  return (v.namespaces & CLONE_NEWUSER) != 0 ? kAll : kGrantable;
}

// All but the operations.
bool check_whole(const Verdict& v, std::uint32_t allowed, DescriptorUse& use) noexcept {
  return v.magic == kVerdictMagic && v.decision == Decision::kAllow &&
         use.count <= kMaxDescriptors && v.operation_count <= kMaxOperations &&
         v.arena_bytes >= 1 && v.arena_bytes <= kArenaBytes && v.arena.front() == '\0' &&
         v.arena[v.arena_bytes - 1] == '\0' && (v.capabilities & ~may_grant(v)) == 0 &&
         check_layers(v, use) && check_image(v, use) && check_namespaces(v, allowed, use) &&
         use.take(v.init_descriptor) && use.take(v.record_descriptor);
}

}  // namespace

Result<Plan> check_verdict(const Verdict& verdict,
                           std::size_t descriptors,
                           std::uint32_t allowed) noexcept {
  DescriptorUse use{descriptors};
  std::uint16_t item = 0;
  bool good = check_whole(verdict, allowed, use);
  while (good && item < verdict.operation_count) {
    good = check_operation(verdict, verdict.operations[item], use);
    if (good) ++item;
  }
  return good && use.taken == use.count
             ? Result<Plan>(Plan(verdict))
             : Error{.err = EBADMSG, .op = Op::kCheckVerdict, .item = item};
}

}  // namespace postern
