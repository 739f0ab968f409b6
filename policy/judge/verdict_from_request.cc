#include "policy/judge/verdict_from_request.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string_view>
#include <type_traits>

#include "protocol/launch_form.h"

namespace postern::judge {
namespace {

// Its bytes cross a process boundary.
static_assert(std::is_trivially_copyable_v<Verdict> && std::is_standard_layout_v<Verdict>);

// The verdict's string arena, filled from the front; offset 0 is the empty string.
class Arena {
 public:
  explicit Arena(Verdict& verdict) : arena_(verdict.arena), next_(verdict.arena_bytes) {
    arena_[0] = '\0';
    next_ = 1;
  }

  std::optional<std::uint32_t> add(std::string_view text) {
    if (text.empty()) {
      return 0;
    }
    if (text.size() + 1 > arena_.size() - next_) {
      return std::nullopt;
    }
    const std::uint32_t offset = next_;
    std::copy(text.begin(), text.end(), arena_.begin() + offset);
    next_ += static_cast<std::uint32_t>(text.size()) + 1;
    arena_[next_ - 1] = '\0';
    return offset;
  }

 private:
  std::array<char, kArenaBytes>& arena_;
  std::uint32_t& next_;
};

bool add_operation(const MountRequest& mount,
                   std::uint64_t session_bytes,
                   Arena& arena,
                   OperationEntry& entry) {
  const std::optional<std::uint32_t> target = arena.add(mount.target);
  if (!target) {
    return false;
  }
  const bool is_tmpfs = mount.operation == Operation::kTmpfs;
  std::memset(&entry, 0, sizeof entry);
  entry = OperationEntry{
      .operation = mount.operation,
      .flags = mount.flags,
      .descriptor = mount.descriptor.value_or(kNoDescriptor),
      .target = *target,
      .mode = is_tmpfs ? mount.mode : 0,
      .size = !is_tmpfs         ? 0
              : mount.size != 0 ? mount.size
                                : session_bytes,
  };
  return true;
}

// The head alone: of tables and arena nothing is sent but what is filled. Padding too, because the
// struct crosses a process boundary.
void clear(Verdict& verdict) noexcept {
  std::memset(&verdict, 0, offsetof(Verdict, operations));
  verdict.magic = kVerdictMagic;
}

void add_whole(const LaunchRequest& request, Verdict& verdict) {
  verdict.overlay = request.scratch != Scratch::kNone ? 1 : 0;
  verdict.writable = request.writable_root || request.scratch == Scratch::kWritable ||
                             request.scratch == Scratch::kDirectory
                         ? 1
                         : 0;
  verdict.namespaces = request.namespaces;
  verdict.upper_descriptor = request.upper.value_or(kNoDescriptor);
  verdict.net_descriptor = request.join_net.value_or(kNoDescriptor);
  verdict.init_descriptor = request.init;
  verdict.record_descriptor = request.record;
  verdict.scratch_bytes = request.scratch_bytes == 0 ? kDefaultSessionBytes : request.scratch_bytes;
  verdict.capabilities = request.capabilities;
  std::copy(request.hostname.begin(), request.hostname.end(), verdict.hostname.begin());
  verdict.layers[0] = {request.root, 0};
  verdict.layer_count = 1;
}

}  // namespace

std::array<std::span<const std::byte>, 3> wire_form(const Verdict& verdict) noexcept {
  const auto whole = std::as_bytes(std::span(&verdict, 1));
  return {whole.first(offsetof(Verdict, operations)),
          std::as_bytes(std::span(verdict.operations).first(verdict.operation_count)),
          std::as_bytes(std::span(verdict.arena).first(verdict.arena_bytes))};
}

void refuse(Refusal refusal, Verdict& verdict) noexcept {
  clear(verdict);
  verdict.decision = Decision::kRefuse;
  verdict.refusal = static_cast<std::uint16_t>(refusal.code);
  verdict.refusal_item = refusal.item;
}

Result<Ok, Refusal> verdict_from_request(const LaunchRequest& request,
                                         std::size_t descriptors,
                                         Verdict& verdict) noexcept {
  if (const auto form = check_form(request, descriptors); !form) {
    refuse(form.error(), verdict);
    return form.error();
  }
  clear(verdict);
  verdict.decision = Decision::kAllow;
  add_whole(request, verdict);
  for (const LayerRequest& layer : request.layers) {
    verdict.layers[verdict.layer_count++] = LayerEntry{layer.kind, layer.descriptor};
  }
  Arena arena(verdict);
  for (const MountRequest& mount : request.mounts) {
    if (!add_operation(mount, verdict.scratch_bytes, arena,
                       verdict.operations[verdict.operation_count])) {
      const Refusal full{RefusalCode::kMalformedRequest, verdict.operation_count};
      refuse(full, verdict);
      return full;
    }
    ++verdict.operation_count;
  }
  return Ok{};
}

}  // namespace postern::judge
