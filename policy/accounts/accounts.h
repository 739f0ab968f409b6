// Users and groups of this node, as its name service knows them (nsswitch.conf(5)).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace postern::accounts {

enum class Key { kUserId, kUserName, kGroupId, kGroupName };

struct Question {
  Key key;
  std::string value;
};

// For each question its line of passwd(5) or group(5), perhaps without members; "": there is none.
// Of the two implementations, each program links one: name_service.cc asks the C library, which
// loads what nsswitch.conf(5) names; frontend/accounts does without a C library that can load.
std::vector<std::string> look_up(std::span<const Question> questions);

struct User {
  std::string name;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string gecos;
  std::string home;
  std::string shell;
};

struct Group {
  std::string name;
  std::uint32_t gid = 0;
};

std::optional<User> user_of_line(std::string_view line);
std::optional<Group> group_of_line(std::string_view line);

std::optional<User> find_user(std::uint32_t uid);
std::optional<User> find_user(const std::string& name);
std::optional<Group> find_group(const std::string& name);

}  // namespace postern::accounts
