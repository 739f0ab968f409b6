// The site's limits on which containers run, as pure rules: the judge decides with them, and the
// frontend foretells with them, in user-namespace mode as advice.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/config/site.h"
#include "protocol/base/result.h"
#include "protocol/refusal.h"

namespace postern::admit {

enum class Kind : std::uint8_t { kSif, kSquashfs, kDirectory };

// A root, as far as limits ask.
struct Candidate {
  Kind kind = Kind::kSif;
  bool encrypted = false;
  std::uint32_t uid = 0;  // owner
  std::uint32_t gid = 0;
  std::optional<std::string> path;  // by the kernel's name; none where it is not known
};

// [limit] and kernel-mount.trusted-paths of postern.toml, as this host resolves them: names are
// ids, directories are places. A name or directory that does not exist allows nothing.
struct Limits {
  std::vector<std::uint32_t> owners;
  std::vector<std::uint32_t> groups;
  std::vector<std::string> paths;
  std::vector<std::string> trusted_paths;
};

[[nodiscard]] Limits resolve(const config::SiteConfig& site);

// Whether the site limits containers by owner, group or path.
[[nodiscard]] bool has_limits(const config::SiteConfig& site) noexcept;

// kPathLimit, kGroupLimit or kOwnerLimit, in this order; kCryptForbidden or kContainerKind.
[[nodiscard]] Result<Ok, RefusalCode> check(const Candidate& candidate,
                                            const Limits& limits,
                                            const config::SiteConfig& site);

// The key of postern.toml that says so, for messages: "limit.paths".
[[nodiscard]] std::string_view key_of(RefusalCode code, Kind kind) noexcept;

// Whether `path` is one of the places or lies below one.
[[nodiscard]] bool is_below_any(std::string_view path, const std::vector<std::string>& places);

}  // namespace postern::admit
