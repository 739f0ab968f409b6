#include "frontend/suid/refusal_words.h"

#include <array>
#include <filesystem>
#include <string_view>

#include <sys/resource.h>

#include "policy/config/capabilities.h"
#include "protocol/refusal_table.h"

namespace postern::suid {
namespace {

std::string mount_words(const plan::LaunchPlan& plan, std::uint32_t item) {
  return item < plan.request.mounts.size() ? " (" + plan.request.mounts[item].target + ")" : "";
}

// By the number of its CLONE_NEW… bit.
std::string namespace_name(std::uint32_t bit) {
  constexpr std::uint32_t kFirst = 25;
  constexpr std::array<std::string_view, 6> kNames = {"cgroup", "uts", "ipc", "user", "pid", "net"};
  static_assert(1U << kFirst == CLONE_NEWCGROUP && 1U << (kFirst + 5) == CLONE_NEWNET);
  return std::string(bit - kFirst < kNames.size() ? kNames[bit - kFirst] : "user");
}

std::string capability_words(std::uint32_t bit) {
  const auto names =
      bit < 64 ? config::capability_names(std::uint64_t{1} << bit) : std::vector<std::string>();
  return names.empty() ? "" : " (" + names.front() + ")";
}

// By the number of its RLIMIT_….
std::string limit_words(std::uint32_t resource) {
  switch (resource) {
    case RLIMIT_CPU:
      return " (CPU time: ulimit -t)";
    case RLIMIT_FSIZE:
      return " (size of files: ulimit -f)";
    case RLIMIT_DATA:
      return " (size of data: ulimit -d)";
    case RLIMIT_NOFILE:
      return " (open files: ulimit -n)";
    case RLIMIT_AS:
      return " (address space: ulimit -v)";
    case RLIMIT_RTTIME:
      return " (CPU time of real-time scheduling: ulimit -R)";
    default:
      return "";
  }
}

// Which of the things that were asked for.
std::string item_words(const plan::LaunchPlan& plan, Refusal refusal) {
  switch (refusal.code) {
    case RefusalCode::kNamespaceForbidden:
      return " (" + namespace_name(refusal.item) + ")";
    case RefusalCode::kCapability:
      return capability_words(refusal.item);
    case RefusalCode::kLimit:
      return limit_words(refusal.item);
    case RefusalCode::kBindForbidden:
    case RefusalCode::kMountForbidden:
      return mount_words(plan, refusal.item);
    case RefusalCode::kImageDescriptor:
    case RefusalCode::kContainerKind:
    case RefusalCode::kOwnerLimit:
    case RefusalCode::kGroupLimit:
    case RefusalCode::kPathLimit:
    case RefusalCode::kUnboundRoot:
    case RefusalCode::kKernelMount:
    case RefusalCode::kImageMalformed:
    case RefusalCode::kNoRootPartition:
    case RefusalCode::kEclNoGroup:
    case RefusalCode::kEclUnsigned:
    case RefusalCode::kEclForbidden:
    case RefusalCode::kEclSignature:
    case RefusalCode::kEclBinding:
    case RefusalCode::kSeal:
    case RefusalCode::kUnsealed:
    case RefusalCode::kProfile:
    case RefusalCode::kCryptHeader:
    case RefusalCode::kCryptKey:
    case RefusalCode::kCryptForbidden:
      return " (" + plan.image_name + ")";
    case RefusalCode::kNone:
    case RefusalCode::kNotSetuid:
    case RefusalCode::kRealRoot:
    case RefusalCode::kNoNewPrivs:
    case RefusalCode::kUserNamespace:
    case RefusalCode::kTraced:
    case RefusalCode::kArguments:
    case RefusalCode::kNoSocket:
    case RefusalCode::kDeadline:
    case RefusalCode::kJudgeUser:
    case RefusalCode::kJudgeFailed:
    case RefusalCode::kKernelTooOld:
    case RefusalCode::kCeiling:
    case RefusalCode::kMalformedRequest:
    case RefusalCode::kProtocolVersion:
    case RefusalCode::kDescriptorCount:
    case RefusalCode::kDescriptorKind:
    case RefusalCode::kMalformedVerdict:
    case RefusalCode::kConfigMissing:
    case RefusalCode::kConfigInsecure:
    case RefusalCode::kConfigMalformed:
    case RefusalCode::kSuidDisabled:
    case RefusalCode::kOverlayForbidden:
    case RefusalCode::kNetworkNamespace:
    case RefusalCode::kSessionSize:
    case RefusalCode::kAuditLog:
    case RefusalCode::kOverlayDirectory:
    case RefusalCode::kKeyring:
      return "";
  }
  return "";
}

// The keys of postern.toml that a rule may stand for: the first one that the file sets is the one
// to show.
std::vector<std::string> keys_of(const RefusalRow& row, std::uint32_t item) {
  if (row.code == RefusalCode::kContainerKind) {
    return {"allow.sif", "allow.squashfs", "allow.directory"};
  }
  if (row.code == RefusalCode::kUnboundRoot) {
    return {"limit.paths",    "limit.owners",    "limit.groups",   "allow.sif",
            "allow.squashfs", "allow.directory", "allow.encrypted"};
  }
  if (row.code == RefusalCode::kNamespaceForbidden) {
    return {"allow." + namespace_name(item) + "-namespace"};
  }
  if (row.code == RefusalCode::kMountForbidden) {
    return {"mount.proc", "mount.sys", "mount.dev", "mount.devpts"};
  }
  return {std::string(row.rule)};
}

// "/etc/postern/postern.toml:12". The judge may have read another file than the caller can see, so
// this is a hint and the rule's name is what holds.
std::string place_of(const RefusalRow& row,
                     std::uint32_t item,
                     const config::SiteConfig& site,
                     const std::string& site_file) {
  if (row.file != "postern.toml") {
    return (std::filesystem::path(site_file).parent_path() / row.file).string();
  }
  for (const std::string& key : keys_of(row, item)) {
    if (const std::uint32_t line = config::line_of(site, key); line != 0) {
      return site_file + ":" + std::to_string(line);
    }
  }
  return site_file;
}

}  // namespace

Problem refusal_problem(const plan::LaunchPlan& plan,
                        Refusal refusal,
                        const config::SiteConfig& site,
                        const std::string& site_file) {
  const RefusalRow* row = find_refusal(refusal.code);
  if (row == nullptr) {
    return Problem{.what = "refused with code " +
                           std::to_string(static_cast<unsigned>(refusal.code)) +
                           ", which this release does not know",
                   .cure = "have postern and postern-helper installed from the same release"};
  }
  std::string what =
      std::string(row->words) + item_words(plan, refusal) + " [rule " + std::string(row->rule);
  if (!row->file.empty()) {
    what += " of " + place_of(*row, refusal.item, site, site_file);
  }
  return Problem{.what = what + "]", .cure = std::string(row->cure)};
}

}  // namespace postern::suid
