// Gathers facts about open files. Used by the judge for the caller's descriptors and by the
// frontend to foresee its answer. Opens nothing that a caller names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "policy/config/capabilities.h"
#include "policy/config/site.h"
#include "policy/config/unwritable.h"
#include "policy/judge/facts.h"
#include "policy/problem.h"
#include "policy/snapshot/snapshot.h"

namespace postern::judge {

using config::MountTable;

// The path of an open file as the kernel knows it (readlink(2) of /proc/self/fd). Nothing where the
// file was deleted, or was opened through a mount that is not in `mounts`: in a mount namespace of
// their own users mount what they like, wherever they like, and the kernel then gives the path
// there.
[[nodiscard]] std::optional<std::string> path_of(int fd, const MountTable& mounts);

// The same without proof; "?" where there is none. For the log.
[[nodiscard]] std::string shown_path(int fd);

// The image in `fd`, whose bytes are `bytes`. What is wrong with it is in the facts, not an error.
// BOUNDARY: a caller's file is parsed here.
[[nodiscard]] ImageFacts image_facts(int fd, Snapshot& bytes, const MountTable& mounts);

[[nodiscard]] SourceFacts source_facts(int fd, const MountTable& mounts);

// The binds that `site` makes for the user whose account has `home`; sources that do not exist are
// left out.
[[nodiscard]] std::vector<SiteBind> site_binds(const config::SiteConfig& site,
                                               const std::string& home);

// Whether `fd` is a network namespace that one of `paths` names.
[[nodiscard]] bool is_listed_network(int fd, const std::vector<FileId>& listed);
[[nodiscard]] std::vector<FileId> listed_networks(const config::List& paths);

// What the file grants to a user with these ids.
[[nodiscard]] std::uint64_t granted_capabilities(const config::CapabilityConfig& config,
                                                 std::uint32_t uid,
                                                 const std::vector<std::uint32_t>& groups);

}  // namespace postern::judge
