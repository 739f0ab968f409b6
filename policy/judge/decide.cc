#include "policy/judge/decide.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>
#include <vector>

#include <sys/sysmacros.h>

#include "policy/admit/admit.h"
#include "policy/judge/verdict_from_request.h"

namespace postern::judge {
namespace {

using config::SiteConfig;
using Rule = Result<Ok, Refusal>;

Refusal no(RefusalCode code, std::size_t item = 0) {
  return Refusal{code, static_cast<std::uint32_t>(item)};
}

template <class T>
bool contains(const std::vector<T>& list, const T& wanted) {
  return std::find(list.begin(), list.end(), wanted) != list.end();
}

struct NamespaceRule {
  std::uint32_t flag;
  bool SiteConfig::* allowed;
};

constexpr std::array kNamespaceRules = std::to_array<NamespaceRule>({
    {CLONE_NEWPID, &SiteConfig::allow_pid_namespace},
    {CLONE_NEWIPC, &SiteConfig::allow_ipc_namespace},
    {CLONE_NEWUTS, &SiteConfig::allow_uts_namespace},
    {CLONE_NEWNET, &SiteConfig::allow_net_namespace},
    {CLONE_NEWCGROUP, &SiteConfig::allow_cgroup_namespace},
});

// item = the number of its CLONE_NEW… bit. A user namespace is not ours to make: that is the other
// mode.
Rule check_namespaces(const Facts& facts, const LaunchRequest& request, const SiteConfig& site) {
  std::uint32_t allowed = 0;
  for (const NamespaceRule& rule : kNamespaceRules) {
    allowed |= site.*rule.allowed ? rule.flag : 0;
  }
  const std::uint32_t forbidden = request.namespaces & ~allowed;
  if (forbidden != 0) {
    return no(RefusalCode::kNamespaceForbidden,
              static_cast<std::size_t>(std::countr_zero(forbidden)));
  }
  if (request.join_net && !facts.may_join_network) {
    return no(RefusalCode::kNetworkNamespace);
  }
  return Ok{};
}

// What the site's limits ask about an image file.
admit::Candidate candidate_of(const ImageFacts& image) {
  return {.kind = image.kind == ImageKind::kSif ? admit::Kind::kSif : admit::Kind::kSquashfs,
          .encrypted = image.encrypted,
          .uid = image.uid,
          .gid = image.gid,
          .path = image.path};
}

Rule check_image(const Facts& facts, const LaunchRequest& request, const SiteConfig& site) {
  if (!facts.image) {
    return no(RefusalCode::kImageDescriptor);
  }
  const ImageFacts& image = *facts.image;
  if (image.problem != RefusalCode::kNone) {
    return no(image.problem);
  }
  if (const auto admitted = admit::check(candidate_of(image), facts.limits, site); !admitted) {
    return no(admitted.error());
  }
  if (facts.ecl_active) {
    if (!facts.ecl) {
      return no(RefusalCode::kEclSignature);
    }
    if (facts.ecl->decision != Decision::kAllow) {
      return no(facts.ecl->reason == RefusalCode::kNone ? RefusalCode::kEclSignature
                                                        : facts.ecl->reason);
    }
  }
  if (!kernel_may_mount(facts, site)) {
    return no(RefusalCode::kKernelMount);
  }
  // One loop device shows the root file system and, behind it, the hash tree.
  constexpr std::uint64_t kBlock = 4096;
  if (image.verity && (image.verity->tree_offset < image.offset + image.bytes ||
                       (image.verity->tree_offset - image.offset) % kBlock != 0)) {
    return no(RefusalCode::kSeal);
  }
  // Without its key the kernel would be handed ciphertext; with a key, plain bytes.
  if (image.encrypted != image.crypt.has_value() ||
      image.encrypted != request.volume_key.has_value()) {
    return no(RefusalCode::kCryptKey);
  }
  return Ok{};
}

// An active list, unless this root is one that nobody vouches for, and boxed in for that.
bool list_forbids_unsigned(const Facts& facts) {
  return facts.ecl_active && !(facts.ecl && facts.ecl->boxed);
}

Rule check_root(const Facts& facts, const LaunchRequest& request, const SiteConfig& site) {
  switch (request.root) {
    case RootKind::kImage:
      return check_image(facts, request, site);
    case RootKind::kDirectory:
      if (!site.allow_directory) {
        return no(RefusalCode::kContainerKind);
      }
      // The caller may own it: whatever is found now may be something else later.
      return limits_are_active(site, list_forbids_unsigned(facts)) ? no(RefusalCode::kUnboundRoot)
                                                                   : Rule(Ok{});
    case RootKind::kFuse:
      return admits_any_server(site, list_forbids_unsigned(facts)) ? Rule(Ok{})
                                                                   : no(RefusalCode::kUnboundRoot);
  }
  return no(RefusalCode::kMalformedRequest);
}

// An overlay keeps the rights of the helper that mounts it, so under one lie images only: over a
// directory it would read what its user may not, and a copy-up into one that the host can reach
// would leave root-owned setuid files there.
Rule check_overlay(const Facts& facts, const LaunchRequest& request, const SiteConfig& site) {
  const bool asks = request.scratch == Scratch::kWritable || !request.layers.empty();
  if (asks && !site.allow_overlay) {
    return no(RefusalCode::kOverlayForbidden);
  }
  if (request.scratch == Scratch::kDirectory ||
      (request.scratch != Scratch::kNone && request.root == RootKind::kDirectory)) {
    return no(RefusalCode::kOverlayDirectory);
  }
  for (std::size_t item = 0; item < request.layers.size(); ++item) {
    if (request.layers[item].kind != RootKind::kFuse) {
      return no(RefusalCode::kOverlayDirectory, item);
    }
    if (!admits_any_server(site, list_forbids_unsigned(facts))) {
      return no(RefusalCode::kUnboundRoot, item);
    }
  }
  return Ok{};
}

// Files that the frontend generates. With user binds off, only these.
constexpr std::array kGeneratedFiles = std::to_array<std::string_view>({
    "/etc/group",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/resolv.conf",
});

// What the site itself mounts into every container. The source counts, not what the caller calls
// it.
bool is_sites_bind(const Facts& facts, const MountRequest& mount, const SiteConfig& site) {
  if (!mount.descriptor || *mount.descriptor >= facts.sources.size()) {
    return false;
  }
  const SourceFacts& source = facts.sources[*mount.descriptor];
  for (const SiteBind& bind : facts.site_binds) {
    if (source.id == bind.source && mount.target == bind.target) {
      return true;
    }
  }
  return site.mount_hostfs && source.is_mount_root && source.path == mount.target;
}

// What the caller chose the content of.
Rule check_user_mount(const Facts& facts,
                      const MountRequest& mount,
                      const SiteConfig& site,
                      std::size_t item) {
  if (is_sites_bind(facts, mount, site)) {
    return Ok{};
  }
  const bool is_generated =
      mount.operation == Operation::kFile &&
      std::binary_search(kGeneratedFiles.begin(), kGeneratedFiles.end(), mount.target);
  const bool is_content =
      mount.operation == Operation::kBind || mount.operation == Operation::kFile;
  return site.allow_user_binds || !is_content || is_generated
             ? Rule(Ok{})
             : no(RefusalCode::kBindForbidden, item);
}

Rule check_system_mount(bool allowed, std::size_t item) {
  return allowed ? Rule(Ok{}) : no(RefusalCode::kMountForbidden, item);
}

Rule check_mount(const Facts& facts,
                 const MountRequest& mount,
                 const SiteConfig& site,
                 std::size_t item) {
  const bool some_dev = site.mount_dev != config::DevMount::kNo;
  switch (mount.operation) {
    case Operation::kProc:
      return check_system_mount(site.mount_proc, item);
    case Operation::kSysfs:
      return check_system_mount(site.mount_sys, item);
    case Operation::kDevHost:
      return check_system_mount(site.mount_dev == config::DevMount::kYes, item);
    case Operation::kMqueue:
      return check_system_mount(some_dev, item);
    case Operation::kDevpts:
      return check_system_mount(some_dev && site.mount_devpts, item);
    case Operation::kDevice:
      POSTERN_TRY(check_system_mount(some_dev, item));
      return check_user_mount(facts, mount, site, item);
    case Operation::kBind:
    case Operation::kFile:
    case Operation::kTmpfs:
      return check_user_mount(facts, mount, site, item);
  }
  return no(RefusalCode::kMalformedRequest, item);
}

std::uint64_t session_bytes(const SiteConfig& site) {
  constexpr std::uint64_t kMiB = 1024 * 1024;
  return std::min(site.session_max_size_mib * kMiB, kMaxSessionBytes);
}

// Every tmpfs is memory of the node, so their number counts as well as their size.
Rule check_sizes(const LaunchRequest& request, const SiteConfig& site) {
  constexpr std::size_t kMaxTmpfs = 16;
  const std::uint64_t most = session_bytes(site);
  if (request.scratch_bytes > most) {
    return no(RefusalCode::kSessionSize);
  }
  std::size_t count = 0;
  for (std::size_t item = 0; item < request.mounts.size(); ++item) {
    const MountRequest& mount = request.mounts[item];
    count += mount.operation == Operation::kTmpfs ? 1 : 0;
    // Shared memory is the payload's memory: limits of memory bound it, as on the host.
    const bool is_shm = mount.operation == Operation::kTmpfs && mount.target == "/dev/shm";
    if (mount.size > (is_shm ? kMaxSessionBytes : most) || count > kMaxTmpfs) {
      return no(RefusalCode::kSessionSize, item);
    }
  }
  return Ok{};
}

// item = the lowest capability that is not granted.
Rule check_capabilities(const Facts& facts, const LaunchRequest& request) {
  const std::uint64_t missing = request.capabilities & ~facts.granted_capabilities;
  return missing == 0
             ? Rule(Ok{})
             : no(RefusalCode::kCapability, static_cast<std::size_t>(std::countr_zero(missing)));
}

// The devices of a minimal /dev: null, zero, full, random, urandom, tty, and the caller's terminal
// (devices.txt of the kernel).
bool is_harmless(std::uint64_t device) {
  const unsigned number = minor(device);
  switch (major(device)) {
    case 1:
      return number == 3 || number == 5 || (number >= 7 && number <= 9);
    case 4:
      return true;  // consoles
    case 5:
      return number == 0;
    default:
      return major(device) >= 136 && major(device) <= 143;  // pseudo terminals
  }
}

const SourceFacts* source_of(const Facts& facts, const MountRequest& mount) {
  return mount.descriptor && *mount.descriptor < facts.sources.size()
             ? &facts.sources[*mount.descriptor]
             : nullptr;
}

Rule check_profile_mount(const Facts& facts,
                         const MountRequest& mount,
                         const SiteConfig& site,
                         std::size_t item) {
  const ecl::Profile& profile = *facts.profile;
  const SourceFacts* source = source_of(facts, mount);
  if (mount.operation == Operation::kDevice && (profile.deny & ecl::kDenyDevices) != 0 &&
      (source == nullptr || !is_harmless(source->device))) {
    return no(RefusalCode::kProfile, item);
  }
  const bool listed =
      profile.binds.empty() || mount.operation != Operation::kBind ||
      is_sites_bind(facts, mount, site) ||
      (source != nullptr && source->path && admit::is_below_any(*source->path, profile.binds));
  return listed ? Rule(Ok{}) : no(RefusalCode::kProfile, item);
}

// What the profile leaves of the binds that the site makes.
std::vector<SiteBind> binds_left(std::vector<SiteBind> binds, const SiteConfig& left) {
  std::erase_if(binds, [&](const SiteBind& bind) {
    const bool is_tmp = bind.target == "/tmp" || bind.target == "/var/tmp";
    return (is_tmp && !left.mount_tmp) || (bind.is_home && !left.mount_home);
  });
  return binds;
}

bool writes_over_root(const LaunchRequest& request) {
  return request.writable_root || !request.layers.empty() ||
         request.scratch == Scratch::kWritable || request.scratch == Scratch::kDirectory;
}

Rule check_all(const Facts& facts, const LaunchRequest& request, const SiteConfig& site) {
  if (!site.suid_enabled) {
    return no(RefusalCode::kSuidDisabled);
  }
  POSTERN_TRY(check_root(facts, request, site));
  POSTERN_TRY(check_overlay(facts, request, site));
  POSTERN_TRY(check_namespaces(facts, request, site));
  POSTERN_TRY(check_sizes(request, site));
  POSTERN_TRY(check_capabilities(facts, request));
  for (std::size_t item = 0; item < request.mounts.size(); ++item) {
    POSTERN_TRY(check_mount(facts, request.mounts[item], site, item));
  }
  return check_profile(facts, request, site);
}

void add_image(const ImageFacts& image, const LaunchRequest& request, Verdict& verdict) {
  verdict.image_offset = image.offset;
  verdict.image_bytes = image.bytes;
  if (image.verity) {
    verdict.verity = *image.verity;
    verdict.image_bytes = image.verity->tree_offset + image.verity->tree_bytes - image.offset;
  }
  if (image.crypt && request.volume_key) {
    verdict.crypt = *image.crypt;
    verdict.crypt.key_descriptor = *request.volume_key;
  }
}

}  // namespace

Rule check_profile(const Facts& facts, const LaunchRequest& request, const SiteConfig& site) {
  if (!facts.profile) {
    return Ok{};
  }
  const ecl::Profile& profile = *facts.profile;
  const auto denies = [&](ecl::Denied what) { return (profile.deny & what) != 0; };
  const bool joins = request.join_net && (profile.require & CLONE_NEWNET) != 0;
  if ((request.namespaces & profile.require) != profile.require || joins ||
      (denies(ecl::kDenyCapabilities) && request.capabilities != 0) ||
      (denies(ecl::kDenyOverlay) && writes_over_root(request))) {
    return no(RefusalCode::kProfile);
  }
  const SiteConfig left = ecl::narrowed(site, profile);
  Facts narrow = facts;
  narrow.site_binds = binds_left(facts.site_binds, left);
  for (std::size_t item = 0; item < request.mounts.size(); ++item) {
    if (!check_mount(narrow, request.mounts[item], left, item)) {
      return no(RefusalCode::kProfile, item);
    }
    POSTERN_TRY(check_profile_mount(narrow, request.mounts[item], left, item));
  }
  return Ok{};
}

bool limits_are_active(const SiteConfig& site, bool ecl_active) noexcept {
  return ecl_active || admit::has_limits(site);
}

bool admits_any_server(const SiteConfig& site, bool ecl_active) noexcept {
  return !limits_are_active(site, ecl_active) && site.allow_sif && site.allow_squashfs &&
         site.allow_encrypted && site.allow_directory;
}

bool kernel_may_mount(const Facts& facts, const SiteConfig& site) noexcept {
  const ImageFacts& image = *facts.image;
  constexpr std::uint64_t kSector = 512;  // loop(4): the offset must be a multiple
  if (image.offset % kSector != 0 || (image.encrypted && !site.kernel_mount_encrypted)) {
    return false;
  }
  switch (site.kernel_mount_squashfs) {
    case config::KernelMount::kNever:
      return false;
    case config::KernelMount::kAny:
      return true;
    case config::KernelMount::kLimited:
      if (!(facts.ecl && facts.ecl->boxed) && limits_are_active(site, facts.ecl_active)) {
        return true;
      }
      break;
    case config::KernelMount::kTrusted:
      break;
  }
  if (facts.ecl && facts.ecl->decision == Decision::kAllow && facts.ecl->trusted) {
    return true;
  }
  // A file that only root can change, where the site names it: by a trusted path, or by limits that
  // it has met.
  return image.unwritable &&
         (admit::has_limits(site) ||
          (image.path && admit::is_below_any(*image.path, facts.limits.trusted_paths)));
}

Rule decide(const Facts& facts,
            const LaunchRequest& request,
            std::size_t descriptors,
            const SiteConfig& site,
            Verdict& verdict) noexcept {
  Rule answer = check_all(facts, request, site);
  if (answer) {
    answer = verdict_from_request(request, descriptors, verdict);
  }
  if (!answer) {
    refuse(answer.error(), verdict);
    return answer;
  }
  if (request.scratch_bytes == 0) {
    verdict.scratch_bytes = session_bytes(site);
    for (std::size_t item = 0; item < request.mounts.size(); ++item) {
      const MountRequest& mount = request.mounts[item];
      if (mount.operation == Operation::kTmpfs && mount.size == 0) {
        verdict.operations[item].size = verdict.scratch_bytes;
      }
    }
  }
  if (request.root == RootKind::kImage) {
    add_image(*facts.image, request, verdict);
  }
  return answer;
}

}  // namespace postern::judge
