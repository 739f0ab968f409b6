#include "frontend/plan/fakeroot.h"

#include <algorithm>
#include <array>
#include <string>

#include <unistd.h>

#include "frontend/system/read_file.h"

namespace postern::plan {
namespace {

bool is_program(const char* name) {
  static constexpr std::array<const char*, 3> kDirectories = {"/usr/bin/", "/bin/",
                                                              "/usr/local/bin/"};
  return std::any_of(kDirectories.begin(), kDirectories.end(), [name](const char* directory) {
    return ::access((std::string(directory) + name).c_str(), X_OK) == 0;
  });
}

}  // namespace

bool lists_range(std::string_view text, const Identity& caller) {
  const std::string uid = std::to_string(caller.uid);
  while (!text.empty()) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == text.npos ? std::string_view{} : text.substr(end + 1);
    const std::string_view name = line.substr(0, line.find(':'));
    // name:first:count. An entry without a count, or with 0 of them, gives nothing.
    const auto last = line.rfind(':');
    const std::string_view count = last == line.npos ? std::string_view{} : line.substr(last + 1);
    const bool some = !count.empty() && count.find_first_not_of('0') != count.npos;
    if (some && !name.empty() && (name == uid || name == caller.name)) {
      return true;
    }
  }
  return false;
}

Fakeroot choose_fakeroot(const Identity& caller) {
  const auto lists = [&](const char* path) {
    return lists_range(system::read_small_file(path).value_or(""), caller);
  };
  const bool subordinate = lists("/etc/subuid") && lists("/etc/subgid") &&
                           is_program("newuidmap") && is_program("newgidmap");
  return subordinate ? Fakeroot::kSubordinate : Fakeroot::kRootMapped;
}

Identity root_identity() {
  return {.uid = 0,
          .gid = 0,
          .name = "root",
          .gecos = "root",
          .home = "/root",
          .shell = "/bin/sh",
          .groups = {{0, "root"}}};
}

}  // namespace postern::plan
