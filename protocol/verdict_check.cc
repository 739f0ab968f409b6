#include <linux/capability.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "protocol/verdict_check.h"

namespace postern {

namespace {

constexpr std::uint64_t kMaxExtentBytes = 1ULL << 60;  // offset + length stay far from 2^63 (loff_t)
constexpr std::uint32_t kBlock = 4096;                 // dm-verity data and hash blocks
constexpr std::uint32_t kSector = 512;

bool fits(std::uint64_t offset, std::uint64_t bytes, std::uint64_t whole) noexcept {
  return bytes > 0 && offset <= whole && bytes <= whole - offset;
}

// Every descriptor is used, and used once: a second use would let one source be checked in one role
// and act in another.
struct DescriptorUse {
  std::size_t count;
  std::size_t taken = 0;
  std::array<bool, kNoDescriptor> used{};

  bool take(std::uint8_t i) noexcept { return i < count && !std::exchange(used[i], true) && ++taken != 0; }
  bool take_if(bool needed, std::uint8_t i) noexcept { return needed ? take(i) : i == kNoDescriptor; }
};
static_assert(kMaxDescriptors < kNoDescriptor);

// Text at `offset`, empty where out of range or too long. INVARIANT: the arena's last byte is NUL
// (check_head), so the view ends inside it.
std::string_view text_at(const Verdict& v, std::uint32_t offset) noexcept {
  const std::string_view text(offset < v.arena.size() ? &v.arena[offset] : "");
  return text.size() < kMaxTargetBytes ? text : std::string_view{};
}

// Absolute, below "/", and already normal: no empty, "." or ".." component, no trailing slash.
bool is_target(std::string_view path) noexcept {
  bool good = !path.empty();
  while (good && !path.empty()) {
    const std::string_view name = path.substr(1, path.find('/', 1) - 1);
    good = path.front() == '/' && !name.empty() && name != "." && name != ".." && name.size() <= 255;
    path.remove_prefix(name.size() + 1);
  }
  return good;
}

// What an operation may set; all else in its entry must be zero.
struct OperationRule {
  Operation operation;
  bool descriptor;  // takes exactly one, or none
  bool text;        // needs one, or none
  std::uint8_t flags;
  std::uint32_t mode;
  std::uint64_t size;
};

constexpr std::uint8_t kCopied = kOptional | kNeedsTarget;
constexpr std::uint8_t kPlace = kCopied | kDirectoryTarget;

// clang-format off
constexpr std::array kOperations = std::to_array<OperationRule>({
  {Operation::kBind,    true,  false, kPlace | kReadOnly,  0,     0},                 // open_tree(2)
  {Operation::kFile,    true,  false, kCopied | kReadOnly, 0,     0},                 // copied: sendfile(2)
  {Operation::kTmpfs,   false, false, kPlace,              01777, kMaxSessionBytes},  // tmpfs(5)
  {Operation::kProc,    false, false, kPlace,              0,     0},                 // proc(5)
  {Operation::kSysfs,   false, false, kPlace,              0,     0},                 // sysfs(5)
  {Operation::kDevHost, false, false, kPlace,              0,     0},                 // our constant
  {Operation::kDevice,  true,  false, kCopied,             0,     0},                 // node: mounts.cc
  {Operation::kDevpts,  false, false, kPlace,              0,     0},                 // pts(4)
  {Operation::kMqueue,  false, false, kPlace,              0,     0},                 // mq_overview(7)
  {Operation::kSymlink, false, true,  kOptional,           0,     0},                 // symlink(7)
});
// clang-format on

constexpr bool is_complete() {
  std::size_t row = 0;
  while (row < kOperations.size() && kOperations[row].operation == Operation{static_cast<std::uint8_t>(row + 1)}) ++row;
  return ++row == static_cast<std::size_t>(Operation::kCount_);
}
static_assert(is_complete(), "one row per operation, in order (CVE-2026-41163)");

bool check_operation(const Verdict& v, const OperationEntry& e, DescriptorUse& use) noexcept {
  const std::size_t row = static_cast<std::size_t>(e.operation) - 1;  // 0 wraps to out of range
  if (row >= kOperations.size()) return false;
  const OperationRule& rule = kOperations[row];
  const bool text = rule.text ? !text_at(v, e.text).empty() : e.text == 0;
  return text && (e.flags & ~rule.flags) == 0 && (e.mode & ~rule.mode) == 0 && e.size <= rule.size && e.reserved == 0 &&
         is_target(text_at(v, e.target)) && use.take_if(rule.descriptor, e.descriptor);
}

// Absent geometry is all zero (but for "no descriptor"): neither struct has padding.
bool check_verity(const Verdict& v) noexcept {
  static constexpr VerityGeometry kAbsent{};
  const VerityGeometry& g = v.verity;
  if (std::memcmp(&g, &kAbsent, sizeof g) == 0) return true;
  return v.root == RootKind::kImage && g.present == 1 && g.reserved == kAbsent.reserved &&
         g.salt_bytes <= g.salt.size() && fits(0, g.data_blocks, v.image_bytes / kBlock) &&
         g.tree_offset % kSector == 0 && g.tree_bytes % kBlock == 0 &&
         fits(g.tree_offset, g.tree_bytes + kBlock, kMaxExtentBytes);  // one data block has no tree
}
static_assert(sizeof(VerityGeometry) == 96 && sizeof(CryptGeometry) == 32);

bool check_crypt(const Verdict& v, DescriptorUse& use) noexcept {
  static constexpr CryptGeometry kAbsent{.key_descriptor = kNoDescriptor};
  const CryptGeometry& g = v.crypt;
  if (std::memcmp(&g, &kAbsent, sizeof g) == 0) return true;
  const std::uint64_t whole = v.verity.present == 1 ? v.verity.data_blocks * kBlock : v.image_bytes;
  return v.root == RootKind::kImage && g.present == 1 && g.reserved == 0 && use.take(g.key_descriptor) &&
         (g.sector_bytes == kSector || g.sector_bytes == kBlock) && g.data_offset % kSector == 0 &&
         g.data_bytes % g.sector_bytes == 0 && fits(g.data_offset, g.data_bytes, whole) &&
         g.iv_offset <= kMaxExtentBytes / kSector;
}

// Only a directory can be writable, and only where no overlay stands between.
bool check_root(const Verdict& v, DescriptorUse& use) noexcept {
  const bool image = v.root == RootKind::kImage;
  const bool directory = v.root == RootKind::kDirectory;
  const bool overlaid = v.scratch != Scratch::kNone || v.layer_count != 0;
  const bool extent = image ? v.kernel_mount == 1 && v.image_offset % kSector == 0 &&
                                  fits(v.image_offset, v.image_bytes, kMaxExtentBytes)
                            : v.image_offset == 0 && v.image_bytes == 0;
  return use.take(0) && extent && (image || directory || v.root == RootKind::kFuse) && v.kernel_mount <= 1 &&
         v.writable_root <= (directory && !overlaid ? 1 : 0);
}

// An upper layer that the host can reach lets a copy-up leave a root-owned setuid file there, so
// Scratch::kDirectory needs user-namespace mode.
bool check_scratch(const Verdict& v, DescriptorUse& use) noexcept {
  const bool stored = v.scratch == Scratch::kDirectory;
  return v.scratch <= Scratch::kDirectory && fits(0, v.scratch_bytes, kMaxSessionBytes) &&
         use.take_if(stored, v.upper_descriptor) && (!stored || (v.namespaces & kNamespaceUser) != 0);
}

bool check_namespaces(const Verdict& v, std::uint8_t allowed, DescriptorUse& use) noexcept {
  const bool join = v.net_descriptor != kNoDescriptor;
  return (v.namespaces & ~allowed) == 0 && ((v.namespaces ^ allowed) & kNamespaceUser) == 0 &&
         use.take_if(join, v.net_descriptor) && !(join && (v.namespaces & kNamespaceNet) != 0);
}

// hostname(7): letters, digits, hyphens and dots, then only NUL; and only in a namespace of its own.
bool check_hostname(const Verdict& v) noexcept {
  constexpr std::string_view kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.";
  const std::string_view field(v.hostname.data(), v.hostname.size());
  const std::string_view rest = field.substr(std::min(field.find_first_not_of(kAllowed), field.size()));
  const bool kept = rest.size() == field.size();
  return rest.find_first_not_of('\0') == rest.npos && (kept || (v.namespaces & kNamespaceUts) != 0);
}

bool check_layers(const Verdict& v, DescriptorUse& use) noexcept {
  bool good = v.layer_count <= kMaxLayers;
  for (std::size_t i = 0; good && i < v.layer_count; ++i) {
    const LayerKind kind = v.layers[i].kind;
    good = (kind == LayerKind::kFuse || kind == LayerKind::kDirectory) && use.take(v.layers[i].descriptor);
  }
  return good;
}

// The fields outside the tables. ORDER: check_root bounds the sizes that the geometry checks use.
bool check_head(const Verdict& v, std::size_t descriptors, std::uint8_t allowed, DescriptorUse& use) noexcept {
  return v.magic == kVerdictMagic && v.decision == Decision::kAllow && v.refusal == 0 && v.refusal_item == 0 &&
         descriptors <= kMaxDescriptors && v.descriptor_count == descriptors && v.operation_count <= kMaxOperations &&
         v.arena.front() == '\0' && v.arena.back() == '\0' && (v.capabilities >> (CAP_LAST_CAP + 1)) == 0 &&
         check_root(v, use) && check_verity(v) && check_crypt(v, use) && check_scratch(v, use) &&
         check_namespaces(v, allowed, use) && check_hostname(v) && check_layers(v, use) &&
         use.take(v.init_descriptor) && use.take(v.record_descriptor);
}

}  // namespace

Result<Plan> check_verdict(const Verdict& verdict, std::size_t descriptors, std::uint8_t allowed_namespaces) noexcept {
  DescriptorUse use{descriptors};
  std::uint16_t item = 0;
  bool good = check_head(verdict, descriptors, allowed_namespaces, use);
  while (good && item < verdict.operation_count) {
    good = check_operation(verdict, verdict.operations[item], use);
    if (good) ++item;
  }
  return good && use.taken == use.count ? Result<Plan>(Plan(verdict))
                                        : Error{.err = EBADMSG, .op = Op::kCheckVerdict, .item = item};
}

}  // namespace postern
