#include "frontend/plan/host_mounts.h"

#include <algorithm>
#include <array>

#include "frontend/plan/bind.h"
#include "frontend/system/read_file.h"
#include "policy/text/split.h"

namespace postern::plan {
namespace {

// The kernel writes space, tab, newline and backslash as \ooo (proc(5)).
std::string unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out +=
          static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + text[i + 3] - '0');
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> parse_host_mounts(std::string_view mountinfo) {
  static constexpr std::array<std::string_view, 6> kExcluded = {"/proc", "/sys",  "/dev",
                                                                "/run",  "/boot", "/var"};
  std::vector<std::string> all;
  while (!mountinfo.empty()) {
    std::string_view line = text::next_line(mountinfo);
    for (int skipped = 0; skipped < 4; ++skipped) {
      const auto space = line.find(' ');
      line = space == line.npos ? std::string_view{} : line.substr(space + 1);
    }
    std::string point = unescaped(line.substr(0, line.find(' ')));
    const bool excluded =
        std::any_of(kExcluded.begin(), kExcluded.end(),
                    [&](std::string_view tree) { return is_within(point, tree); });
    if (!point.empty() && point != "/" && !excluded) {
      all.push_back(std::move(point));
    }
  }
  std::sort(all.begin(), all.end());
  std::vector<std::string> outermost;
  for (std::string& point : all) {
    const bool nested =
        std::any_of(outermost.begin(), outermost.end(),
                    [&](const std::string& outer) { return is_within(point, outer); });
    if (!nested) {
      outermost.push_back(std::move(point));
    }
  }
  return outermost;
}

std::vector<std::string> host_mounts() {
  return parse_host_mounts(system::read_small_file("/proc/self/mountinfo").value_or(""));
}

}  // namespace postern::plan
