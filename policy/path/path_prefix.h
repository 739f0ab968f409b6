// Paths compare by whole components: "/apps" holds "/apps/x" and not "/apps-of-mine/x"
// (CVE-2026-48785).
#pragma once

#include <string_view>

namespace postern::path {

// Whether `path` is `directory` or lies below it. Both absolute; trailing and doubled slashes do
// not count. A ".." component in either makes it false.
[[nodiscard]] bool is_within(std::string_view path, std::string_view directory) noexcept;

}  // namespace postern::path
