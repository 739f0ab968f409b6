#include "policy/admit/ids.h"

#include <charconv>
#include <optional>

#include <grp.h>
#include <pwd.h>

namespace postern::admit {
namespace {

std::optional<std::uint32_t> number_of(const std::string& name) {
  std::uint32_t id = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, id);
  return error == std::errc() && stop == end ? std::optional(id) : std::nullopt;
}

// The bounds of sysconf(3) are hints only; a group with very many members needs more.
constexpr std::size_t kAccountBytes = 256 * 1024;

std::optional<std::uint32_t> user_id(const std::string& name, std::vector<char>& buffer) {
  struct passwd entry{};
  struct passwd* found = nullptr;
  if (::getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return std::nullopt;
  }
  return found->pw_uid;
}

std::optional<std::uint32_t> group_id(const std::string& name, std::vector<char>& buffer) {
  struct group entry{};
  struct group* found = nullptr;
  if (::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return std::nullopt;
  }
  return found->gr_gid;
}

template <class Lookup>
std::vector<std::uint32_t> ids_of(const std::vector<std::string>& names, Lookup lookup) {
  std::vector<std::uint32_t> ids;
  std::vector<char> buffer;
  for (const std::string& name : names) {
    std::optional<std::uint32_t> id = number_of(name);
    if (!id) {
      buffer.resize(kAccountBytes);
      id = lookup(name, buffer);
    }
    if (id) {
      ids.push_back(*id);
    }
  }
  return ids;
}

std::string account_text(std::uint32_t uid, char* passwd::* field) {
  std::vector<char> buffer(kAccountBytes);
  struct passwd entry{};
  struct passwd* found = nullptr;
  if (::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) {
    return {};
  }
  return found->*field;
}

}  // namespace

std::vector<std::uint32_t> user_ids(const std::vector<std::string>& names) {
  return ids_of(names, user_id);
}

std::vector<std::uint32_t> group_ids(const std::vector<std::string>& names) {
  return ids_of(names, group_id);
}

std::string name_of(std::uint32_t uid) {
  return account_text(uid, &passwd::pw_name);
}

std::string home_of(std::uint32_t uid) {
  return account_text(uid, &passwd::pw_dir);
}

}  // namespace postern::admit
