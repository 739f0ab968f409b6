#include "frontend/start/cgroup/place.h"

#include <algorithm>
#include <optional>

#include "frontend/system/read_file.h"
#include "policy/text/split.h"

namespace postern::start::cgroup {
namespace {

constexpr const char* kBatch =
    "start the host with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, or leave "
    "the limits to your batch system";

// A path of /proc/self/mountinfo: space, tab, line feed and backslash are \ooo (proc(5)).
std::string unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto is_digit = [&](std::size_t at) { return text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && i + 3 < text.size() && is_digit(i + 1) && is_digit(i + 2) &&
        is_digit(i + 3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                               (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

struct Hierarchy {
  std::string root;  // the group that the mount shows at its top
  std::string directory;
};

// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": field 4 is the root of the
// mount, field 5 where it lies, and behind the dash stands the type.
std::optional<Hierarchy> hierarchy_of(std::string_view line) {
  const std::vector<std::string_view> fields = text::split(line, ' ');
  const auto dash = std::find(fields.begin(), fields.end(), "-");
  if (fields.size() < 5 || dash == fields.end() || dash + 1 == fields.end() ||
      dash[1] != "cgroup2") {
    return std::nullopt;
  }
  return Hierarchy{.root = unescaped(fields[3]), .directory = unescaped(fields[4])};
}

// Our group as the mount shows it; nothing where it does not.
std::optional<std::string> below(const Hierarchy& mount, std::string_view group) {
  const std::string root = mount.root == "/" ? "" : mount.root;
  if (!group.starts_with(root) || (group.size() > root.size() && group[root.size()] != '/')) {
    return std::nullopt;
  }
  const std::string_view rest = group.substr(root.size());
  return mount.directory + std::string(rest == "/" ? "" : rest);
}

}  // namespace

Outcome<Place> find_place(std::string_view cgroup, std::string_view mounts) {
  Place place;
  std::optional<std::string> group;
  text::for_each_line(cgroup, [&](std::string_view line) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) {
      return;
    }
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    if (line.starts_with("0::")) {
      group = line.substr(second + 1);
    } else if (!controllers.empty() && !controllers.starts_with("name=")) {
      for (const std::string_view name : text::split(controllers, ',')) {
        place.of_version_1.emplace_back(name);
      }
    }
  });
  if (!group) {
    return Problem{.what = "limits need control groups version 2, and this host has " +
                           std::string(cgroup.empty() ? "no control groups" : "version 1 alone"),
                   .cure = kBatch};
  }
  if (group->starts_with("/..") || group->ends_with(" (deleted)")) {
    return Problem{.what =
                       "this process stands in a control group that cannot be reached from "
                       "here: " +
                       *group,
                   .cure = "start outside of the outer container, or leave the limits to it"};
  }
  bool is_mounted = false;
  text::for_each_line(mounts, [&](std::string_view line) {
    const std::optional<Hierarchy> mount = hierarchy_of(line);
    is_mounted = is_mounted || mount;
    const std::optional<std::string> directory = mount ? below(*mount, *group) : std::nullopt;
    if (directory && place.directory.empty()) {
      place.directory = *directory;
      place.top = mount->directory;
    }
  });
  if (place.directory.empty()) {
    return Problem{
        .what = is_mounted ? "no mount of control groups shows the group of this process, " + *group
                           : std::string("control groups version 2 are not mounted"),
        .cure = "have them mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup"};
  }
  return place;
}

Outcome<Place> find_place() {
  const auto cgroup = system::read_small_file("/proc/self/cgroup");
  const auto mounts = system::read_small_file("/proc/self/mountinfo");
  return find_place(cgroup ? *cgroup : std::string(), mounts ? *mounts : std::string());
}

}  // namespace postern::start::cgroup
