#include "policy/admit/ids.h"

#include <cerrno>
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

// The bounds of sysconf(3) are hints only; a group with very many members needs more than the
// first, and memory that nobody needs costs a start its pages.
constexpr std::size_t kFirstBytes = 4 * 1024, kMostBytes = 256 * 1024;

// What a function of getpwnam(3)'s kind finds; none where there is no such account.
template <class Entry>
const Entry* find(Entry& entry, std::vector<char>& buffer, auto look_up) {
  Entry* found = nullptr;
  int err = ERANGE;
  for (std::size_t bytes = kFirstBytes; err == ERANGE && bytes <= kMostBytes; bytes *= 2) {
    buffer.resize(bytes);
    err = look_up(&entry, buffer.data(), buffer.size(), &found);
  }
  return err == 0 ? found : nullptr;
}

std::optional<std::uint32_t> user_id(const std::string& name, std::vector<char>& buffer) {
  struct passwd entry{};
  const passwd* const found =
      find(entry, buffer, [&](auto... rest) { return ::getpwnam_r(name.c_str(), rest...); });
  return found == nullptr ? std::nullopt : std::optional<std::uint32_t>(found->pw_uid);
}

std::optional<std::uint32_t> group_id(const std::string& name, std::vector<char>& buffer) {
  struct group entry{};
  const group* const found =
      find(entry, buffer, [&](auto... rest) { return ::getgrnam_r(name.c_str(), rest...); });
  return found == nullptr ? std::nullopt : std::optional<std::uint32_t>(found->gr_gid);
}

template <class Lookup>
std::vector<std::uint32_t> ids_of(const std::vector<std::string>& names, Lookup lookup) {
  std::vector<std::uint32_t> ids;
  std::vector<char> buffer;
  for (const std::string& name : names) {
    std::optional<std::uint32_t> id = number_of(name);
    if (!id) {
      id = lookup(name, buffer);
    }
    if (id) {
      ids.push_back(*id);
    }
  }
  return ids;
}

std::string account_text(std::uint32_t uid, char* passwd::* field) {
  std::vector<char> buffer;
  struct passwd entry{};
  const passwd* const found =
      find(entry, buffer, [&](auto... rest) { return ::getpwuid_r(uid, rest...); });
  return found == nullptr ? "" : found->*field;
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
