#include "policy/admit/ids.h"

#include <optional>

#include "policy/accounts/accounts.h"
#include "policy/accounts/files.h"

namespace postern::admit {
namespace {

// `id_of`: of a line that answers.
template <class IdOf>
std::vector<std::uint32_t> ids_of(const std::vector<std::string>& names,
                                  accounts::Key key,
                                  IdOf id_of) {
  std::vector<accounts::Question> questions;
  for (const std::string& name : names) {
    if (!accounts::number_of(name)) {
      questions.push_back({key, name});
    }
  }
  // Most sites name nobody: the files of accounts are not read then.
  const std::vector<std::string> lines =
      questions.empty() ? std::vector<std::string>() : accounts::look_up(questions);
  std::vector<std::uint32_t> ids;
  auto line = lines.begin();
  for (const std::string& name : names) {
    const auto number = accounts::number_of(name);
    if (const std::optional<std::uint32_t> id = number ? number : id_of(*line++)) {
      ids.push_back(*id);
    }
  }
  return ids;
}

}  // namespace

std::vector<std::uint32_t> user_ids(const std::vector<std::string>& names) {
  return ids_of(names, accounts::Key::kUserName, [](const std::string& line) {
    const auto user = accounts::user_of_line(line);
    return user ? std::optional(user->uid) : std::nullopt;
  });
}

std::vector<std::uint32_t> group_ids(const std::vector<std::string>& names) {
  return ids_of(names, accounts::Key::kGroupName, [](const std::string& line) {
    const auto group = accounts::group_of_line(line);
    return group ? std::optional(group->gid) : std::nullopt;
  });
}

std::string name_of(std::uint32_t uid) {
  const auto user = accounts::find_user(uid);
  return user ? user->name : "";
}

std::string home_of(std::uint32_t uid) {
  const auto user = accounts::find_user(uid);
  return user ? user->home : "";
}

}  // namespace postern::admit
