// Ids that a user namespace of the caller's may hold: subordinate ids, and those of the present
// namespace.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

namespace postern::system {

struct IdRange {
  std::uint32_t first = 0;
  std::uint32_t count = 0;

  bool operator==(const IdRange&) const = default;
};

// The ranges that the text of /etc/subuid or /etc/subgid (subuid(5)) gives to the user `name` (may
// be empty) or to the number `uid`, in file order. The one rule of this project, that of
// newuidmap(1) and of the kernel: a line has three fields "owner:first:count", the numbers are
// decimal, and a range that is empty, exceeds 32 bits, holds `own` (the caller's uid or gid, which
// is mapped to root) or overlaps an earlier range is left out.
std::vector<IdRange> subordinate_ranges(std::string_view text,
                                        std::string_view name,
                                        uid_t uid,
                                        id_t own);

struct SubordinateIds {
  std::vector<IdRange> users;
  std::vector<IdRange> groups;

  // A namespace of several ids needs both.
  [[nodiscard]] bool usable() const noexcept { return !users.empty() && !groups.empty(); }
};

// Of the user `name` (may be empty) with this uid and gid, from /etc/subuid and /etc/subgid. Both
// files name users.
SubordinateIds subordinate_ids(std::string_view name, uid_t uid, gid_t gid);

std::uint64_t count_of(const std::vector<IdRange>& ranges) noexcept;

// The ids that exist in the user namespace of this process, from the text of /proc/self/uid_map or
// gid_map (user_namespaces(7)).
std::vector<IdRange> ids_of_map(std::string_view text);
std::vector<IdRange> own_user_ids();
std::vector<IdRange> own_group_ids();

bool holds_id(const std::vector<IdRange>& ranges, std::uint32_t id) noexcept;

// Can `owner`, as stat(2) gave it, be the overflow id that a user namespace shows for every owner
// that has no id in it, root of the host among them (user_namespaces(7), "Unmapped user and group
// IDs")?
bool is_unmapped(std::uint32_t owner);

// Is this process root of its user namespace, with the right to map each of its ids in a new one
// (CAP_SETUID, CAP_SETGID)?
bool may_map_all_ids() noexcept;

}  // namespace postern::system
