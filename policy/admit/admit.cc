#include "policy/admit/admit.h"

#include <algorithm>

#include "policy/admit/ids.h"
#include "policy/path/path_prefix.h"
#include "policy/path/place.h"

namespace postern::admit {
namespace {

using config::SiteConfig;
using Rule = Result<Ok, RefusalCode>;

bool contains(const std::vector<std::uint32_t>& list, std::uint32_t id) {
  return std::find(list.begin(), list.end(), id) != list.end();
}

Rule check_kind(const Candidate& candidate, const SiteConfig& site) {
  switch (candidate.kind) {
    case Kind::kSif:
      if (candidate.encrypted) {
        return site.allow_encrypted ? Rule(Ok{}) : RefusalCode::kCryptForbidden;
      }
      return site.allow_sif ? Rule(Ok{}) : RefusalCode::kContainerKind;
    case Kind::kSquashfs:
      return site.allow_squashfs ? Rule(Ok{}) : RefusalCode::kContainerKind;
    case Kind::kDirectory:
      return site.allow_directory ? Rule(Ok{}) : RefusalCode::kContainerKind;
  }
  return RefusalCode::kContainerKind;
}

}  // namespace

Limits resolve(const SiteConfig& site) {
  return {.owners = user_ids(site.limit_owners),
          .groups = group_ids(site.limit_groups),
          .paths = path::places_of(site.limit_paths),
          .trusted_paths = path::places_of(site.kernel_mount_trusted_paths)};
}

bool has_limits(const SiteConfig& site) noexcept {
  return !site.limit_owners.empty() || !site.limit_groups.empty() || !site.limit_paths.empty();
}

bool is_below_any(std::string_view path, const std::vector<std::string>& places) {
  return std::any_of(places.begin(), places.end(),
                     [&](const std::string& place) { return path::is_within(path, place); });
}

Rule check(const Candidate& candidate, const Limits& limits, const SiteConfig& site) {
  if (!site.limit_paths.empty() &&
      (!candidate.path || !is_below_any(*candidate.path, limits.paths))) {
    return RefusalCode::kPathLimit;
  }
  if (!site.limit_groups.empty() && !contains(limits.groups, candidate.gid)) {
    return RefusalCode::kGroupLimit;
  }
  if (!site.limit_owners.empty() && !contains(limits.owners, candidate.uid)) {
    return RefusalCode::kOwnerLimit;
  }
  return check_kind(candidate, site);
}

std::string_view key_of(RefusalCode code, Kind kind) noexcept {
  if (code == RefusalCode::kPathLimit) {
    return "limit.paths";
  }
  if (code == RefusalCode::kGroupLimit) {
    return "limit.groups";
  }
  if (code == RefusalCode::kOwnerLimit) {
    return "limit.owners";
  }
  if (code == RefusalCode::kCryptForbidden) {
    return "allow.encrypted";
  }
  switch (kind) {
    case Kind::kSif:
      return "allow.sif";
    case Kind::kSquashfs:
      return "allow.squashfs";
    case Kind::kDirectory:
      return "allow.directory";
  }
  return "";
}

}  // namespace postern::admit
