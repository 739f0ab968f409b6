#include "frontend/system/subids.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>

#include <linux/capability.h>
#include <sys/syscall.h>

#include <unistd.h>

#include "frontend/system/read_file.h"
#include "policy/text/split.h"

namespace postern::system {
namespace {

// user_namespaces(7): a map has at most 340 lines, of which one is the caller's own id.
constexpr std::size_t kMostRanges = 339;
// (uid_t)-1 is no id.
constexpr std::uint64_t kMostIds = std::numeric_limits<std::uint32_t>::max();

std::optional<std::uint32_t> decimal(std::string_view text) {
  std::uint32_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && stop == end && !text.empty() ? std::optional(value) : std::nullopt;
}

std::uint64_t end_of(const IdRange& range) noexcept {
  return std::uint64_t{range.first} + range.count;
}

bool overlap(const IdRange& one, const IdRange& two) noexcept {
  return one.first < end_of(two) && two.first < end_of(one);
}

// The range of "owner:first:count" if the owner is the one asked for.
std::optional<IdRange> range_of(std::string_view line,
                                std::string_view name,
                                std::string_view number) {
  const auto one = line.find(':');
  const auto two = one == line.npos ? one : line.find(':', one + 1);
  if (two == line.npos || one == 0) {
    return std::nullopt;
  }
  const std::string_view owner = line.substr(0, one);
  const auto first = decimal(line.substr(one + 1, two - one - 1));
  const auto count = decimal(line.substr(two + 1));
  const bool ours = owner == name || owner == number;
  return ours && first && count ? std::optional(IdRange{*first, *count}) : std::nullopt;
}

}  // namespace

std::vector<IdRange> subordinate_ranges(std::string_view text,
                                        std::string_view name,
                                        uid_t uid,
                                        id_t own) {
  std::vector<IdRange> ranges;
  const std::string number = std::to_string(uid);
  text::for_each_line(text, [&](std::string_view line) {
    const std::optional<IdRange> range = range_of(line, name, number);
    if (!range || range->count == 0 || end_of(*range) > kMostIds || holds_id({*range}, own) ||
        ranges.size() == kMostRanges) {
      return;
    }
    const bool taken = std::any_of(ranges.begin(), ranges.end(),
                                   [&](const IdRange& other) { return overlap(other, *range); });
    if (!taken && count_of(ranges) + range->count < kMostIds) {
      ranges.push_back(*range);
    }
  });
  return ranges;
}

SubordinateIds subordinate_ids(std::string_view name, uid_t uid, gid_t gid) {
  return {
      .users = subordinate_ranges(read_small_file("/etc/subuid").value_or(""), name, uid, uid),
      .groups = subordinate_ranges(read_small_file("/etc/subgid").value_or(""), name, uid, gid)};
}

std::uint64_t count_of(const std::vector<IdRange>& ranges) noexcept {
  std::uint64_t sum = 0;
  for (const IdRange& range : ranges) {
    sum += range.count;
  }
  return sum;
}

std::vector<IdRange> ids_of_map(std::string_view text) {
  std::vector<IdRange> ranges;
  text::for_each_line(text, [&](std::string_view line) {
    // Three columns: first id inside, first id outside, count.
    std::array<std::optional<std::uint32_t>, 3> columns;
    for (auto& column : columns) {
      line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
      const auto blank = std::min(line.find(' '), line.size());
      column = decimal(line.substr(0, blank));
      line.remove_prefix(blank);
    }
    if (columns[0] && columns[2]) {
      ranges.push_back({*columns[0], *columns[2]});
    }
  });
  return ranges;
}

std::vector<IdRange> own_user_ids() {
  return ids_of_map(read_small_file("/proc/self/uid_map").value_or(""));
}

std::vector<IdRange> own_group_ids() {
  return ids_of_map(read_small_file("/proc/self/gid_map").value_or(""));
}

bool holds_id(const std::vector<IdRange>& ranges, std::uint32_t id) noexcept {
  return std::any_of(ranges.begin(), ranges.end(), [id](const IdRange& range) {
    return id >= range.first && id < end_of(range);
  });
}

bool is_unmapped(std::uint32_t owner) {
  constexpr std::uint32_t kOverflowId = 65534;  // of /proc/sys/kernel/overflowuid, as it comes
  // The first user namespace maps every id to itself. In others the id may have an owner as well.
  return owner == kOverflowId && count_of(own_user_ids()) != 0xFFFFFFFFU;
}

bool may_map_all_ids() noexcept {
  constexpr std::uint32_t kNeeded = 1U << CAP_SETUID | 1U << CAP_SETGID;
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets = {};
  return ::geteuid() == 0 && ::syscall(SYS_capget, &header, sets.data()) == 0 &&
         (sets[0].effective & kNeeded) == kNeeded;
}

}  // namespace postern::system
