// What postern-accounts calls the keys of a question (policy/accounts/accounts.h), in their order.
#pragma once

#include <array>
#include <string_view>

namespace postern::accounts {

inline constexpr std::array<std::string_view, 4> kWords = {"user-id", "user-name", "group-id",
                                                           "group-name"};

}  // namespace postern::accounts
