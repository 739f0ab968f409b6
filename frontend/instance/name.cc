#include "frontend/instance/name.h"

#include <algorithm>

#include <fnmatch.h>

namespace postern::instance {
namespace {

constexpr std::string_view kScheme = "instance://";
// With ".out" and ".err" behind it, a name of a file (NAME_MAX).
constexpr std::size_t kLongest = 250;

bool is_allowed(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

}  // namespace

Outcome<> check_name(std::string_view name) {
  const std::string cure =
      "use letters, digits, \".\", \"_\" and \"-\", beginning with no \".\", at most " +
      std::to_string(kLongest) + " of them";
  if (name.size() > kLongest) {
    return Problem{.what = "the instance's name has " + std::to_string(name.size()) + " characters",
                   .cure = cure};
  }
  if (name.empty() || name.front() == '.' || !std::all_of(name.begin(), name.end(), is_allowed)) {
    return Problem{.what = "\"" + std::string(name) + "\" is not a name for an instance",
                   .cure = cure};
  }
  return Ok{};
}

std::optional<std::string> name_in(std::string_view image) {
  return image.starts_with(kScheme) ? std::optional(std::string(image.substr(kScheme.size())))
                                    : std::nullopt;
}

bool matches(const std::string& pattern, const std::string& name) {
  return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

}  // namespace postern::instance
