#include "policy/accounts/accounts.h"

#include <algorithm>
#include <array>

#include "policy/accounts/files.h"

namespace postern::accounts {
namespace {

std::string first_line(Key key, std::string value) {
  const std::array question = {Question{key, std::move(value)}};
  return look_up(question).front();
}

}  // namespace

std::optional<User> user_of_line(std::string_view line) {
  const auto colons = static_cast<std::size_t>(std::count(line.begin(), line.end(), ':'));
  const auto fields = fields_of(line);
  const auto uid = number_of(fields[2]);
  const auto gid = number_of(fields[3]);
  if (colons + 1 < kPasswdFields || !uid || !gid) {
    return std::nullopt;
  }
  return User{.name = std::string(fields[0]),
              .uid = *uid,
              .gid = *gid,
              .gecos = std::string(fields[4]),
              .home = std::string(fields[5]),
              .shell = std::string(fields[6])};
}

std::optional<Group> group_of_line(std::string_view line) {
  const auto fields = fields_of(line);
  const auto gid = number_of(fields[2]);
  return gid ? std::optional(Group{.name = std::string(fields[0]), .gid = *gid}) : std::nullopt;
}

std::optional<User> find_user(std::uint32_t uid) {
  return user_of_line(first_line(Key::kUserId, std::to_string(uid)));
}

std::optional<User> find_user(const std::string& name) {
  return user_of_line(first_line(Key::kUserName, name));
}

std::optional<Group> find_group(const std::string& name) {
  return group_of_line(first_line(Key::kGroupName, name));
}

}  // namespace postern::accounts
