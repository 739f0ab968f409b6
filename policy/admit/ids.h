// Users and groups that the site's files name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace postern::admit {

// Names, or decimal ids, as ids: by the name service. Names that do not exist are left out.
[[nodiscard]] std::vector<std::uint32_t> user_ids(const std::vector<std::string>& names);
[[nodiscard]] std::vector<std::uint32_t> group_ids(const std::vector<std::string>& names);

// Name and home directory of the account `uid`; empty where there is none.
[[nodiscard]] std::string name_of(std::uint32_t uid);
[[nodiscard]] std::string home_of(std::uint32_t uid);

}  // namespace postern::admit
