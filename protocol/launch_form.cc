#include "protocol/launch_form.h"

#include <bitset>

#include <linux/capability.h>

namespace postern {
namespace {

constexpr std::uint32_t kModeBits = 01777;

using Used = std::bitset<kMaxDescriptors>;

// Marks a descriptor as used; false where it is out of range or somebody uses it already.
bool take(Used& used, std::size_t descriptors, std::uint16_t index) {
  if (index >= descriptors || used.test(index)) {
    return false;
  }
  used.set(index);
  return true;
}

bool take_optional(Used& used, std::size_t descriptors, const std::optional<std::uint16_t>& index) {
  return !index || take(used, descriptors, *index);
}

bool has_nul(std::string_view text) {
  return text.find('\0') != std::string_view::npos;
}

bool known(RootKind kind) {
  switch (kind) {
    case RootKind::kImage:
    case RootKind::kFuse:
    case RootKind::kDirectory:
      return true;
  }
  return false;
}

bool known(Scratch scratch) {
  switch (scratch) {
    case Scratch::kNone:
    case Scratch::kMountPoints:
    case Scratch::kWritable:
    case Scratch::kDirectory:
      return true;
  }
  return false;
}

bool known(Operation operation) {
  return operation >= Operation::kBind && static_cast<std::size_t>(operation) <= kOperationCount;
}

// The helper's own check of the verdict (protocol/verdict_check.cc) admits the same.
std::uint8_t flags_of(Operation operation) {
  constexpr std::uint8_t kPlace = kOptional | kNeedsTarget | kDirectoryTarget;
  switch (operation) {
    case Operation::kBind:
    case Operation::kSysfs:
      return kPlace | kReadOnly;
    case Operation::kFile:
      return kOptional | kNeedsTarget | kReadOnly;
    case Operation::kDevice:
      return kOptional | kNeedsTarget;
    case Operation::kTmpfs:
    case Operation::kProc:
    case Operation::kDevHost:
    case Operation::kDevpts:
    case Operation::kMqueue:
      return kPlace;
  }
  return 0;
}

bool mount_fields_fit(const MountRequest& mount) {
  if (!known(mount.operation) || (mount.flags & ~flags_of(mount.operation)) != 0 ||
      !is_target(mount.target)) {
    return false;
  }
  if (mount.descriptor.has_value() != takes_descriptor(mount.operation)) {
    return false;
  }
  return (mount.mode & ~kModeBits) == 0 && mount.size <= kMaxSessionBytes;
}

bool whole_fits(const LaunchRequest& request) {
  if (!known(request.root) || !known(request.scratch) || (request.namespaces & ~kNamespaces) != 0 ||
      request.scratch_bytes > kMaxSessionBytes ||
      (request.capabilities >> (CAP_LAST_CAP + 1)) != 0 ||
      (!request.hostname.empty() && !is_hostname(request.hostname)) ||
      request.layers.size() > kMaxLayers || request.mounts.size() > kMaxOperations) {
    return false;
  }
  // Without a namespace of its own the name would be the host's.
  if (!request.hostname.empty() && (request.namespaces & CLONE_NEWUTS) == 0) {
    return false;
  }
  if (request.join_net && (request.namespaces & CLONE_NEWNET) != 0) {
    return false;
  }
  if (request.volume_key && request.root != RootKind::kImage) {
    return false;
  }
  // An image and a FUSE server of ours are read-only by nature.
  if (request.writable_root &&
      (request.root != RootKind::kDirectory || request.scratch != Scratch::kNone)) {
    return false;
  }
  // Layers are put together by an overlay, which has an upper layer.
  if (!request.layers.empty() && request.scratch == Scratch::kNone) {
    return false;
  }
  return request.upper.has_value() == (request.scratch == Scratch::kDirectory);
}

}  // namespace

bool is_hostname(std::string_view name) noexcept {
  constexpr std::string_view kAllowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.";
  return !name.empty() && name.size() <= kMaxHostnameBytes &&
         name.find_first_not_of(kAllowed) == std::string_view::npos && name.front() != '-' &&
         name.front() != '.' && name.back() != '-';
}

bool takes_descriptor(Operation operation) noexcept {
  switch (operation) {
    case Operation::kBind:
    case Operation::kFile:
    case Operation::kDevice:
      return true;
    case Operation::kTmpfs:
    case Operation::kProc:
    case Operation::kSysfs:
    case Operation::kDevHost:
    case Operation::kDevpts:
    case Operation::kMqueue:
      return false;
  }
  return false;
}

bool is_target(std::string_view path) noexcept {
  constexpr std::size_t kMaxComponent = 255;  // NAME_MAX
  if (path.empty() || path.size() >= kMaxTargetBytes || has_nul(path)) {
    return false;
  }
  while (!path.empty()) {
    if (path.front() != '/') {
      return false;
    }
    path.remove_prefix(1);
    const std::string_view component = path.substr(0, path.find('/'));
    if (component.empty() || component == "." || component == ".." ||
        component.size() > kMaxComponent) {
      return false;
    }
    path.remove_prefix(component.size());
  }
  return true;
}

Result<Ok, Refusal> check_form(const LaunchRequest& request, std::size_t descriptors) noexcept {
  if (descriptors > kMaxDescriptors) {
    return Refusal{RefusalCode::kDescriptorCount};
  }
  if (!whole_fits(request)) {
    return Refusal{RefusalCode::kMalformedRequest};
  }
  Used used;
  if (!take(used, descriptors, 0) || !take_optional(used, descriptors, request.upper) ||
      !take_optional(used, descriptors, request.volume_key) ||
      !take_optional(used, descriptors, request.join_net) ||
      !take(used, descriptors, request.init) || !take(used, descriptors, request.record)) {
    return Refusal{RefusalCode::kDescriptorCount};
  }
  for (std::uint32_t item = 0; const LayerRequest& layer : request.layers) {
    if (layer.kind != RootKind::kFuse && layer.kind != RootKind::kDirectory) {
      return Refusal{RefusalCode::kMalformedRequest, item};
    }
    if (!take(used, descriptors, layer.descriptor)) {
      return Refusal{RefusalCode::kDescriptorCount, item};
    }
    ++item;
  }
  for (std::uint32_t item = 0; const MountRequest& mount : request.mounts) {
    if (!mount_fields_fit(mount)) {
      return Refusal{RefusalCode::kMalformedRequest, item};
    }
    if (!take_optional(used, descriptors, mount.descriptor)) {
      return Refusal{RefusalCode::kDescriptorCount, item};
    }
    ++item;
  }
  if (used.count() != descriptors) {
    return Refusal{RefusalCode::kDescriptorCount};
  }
  return Ok{};
}

}  // namespace postern
