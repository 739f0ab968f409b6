// Accounts by the C library, which loads what nsswitch.conf(5) names.
#include <cerrno>
#include <string>
#include <vector>

#include <grp.h>
#include <pwd.h>

#include "policy/accounts/accounts.h"
#include "policy/accounts/files.h"

namespace postern::accounts {
namespace {

// The bounds of sysconf(3) are hints only; a group with very many members needs more than the
// first, and memory that nobody needs costs a start its pages.
constexpr std::size_t kFirstBytes = std::size_t{4} << 10;
constexpr std::size_t kMostBytes = std::size_t{1} << 20;

// What a function of getpwnam(3)'s kind finds; nullptr where there is no such account.
template <class Entry>
const Entry* find(Entry& entry, std::vector<char>& buffer, auto ask) {
  Entry* found = nullptr;
  int err = ERANGE;
  for (std::size_t bytes = kFirstBytes; err == ERANGE && bytes <= kMostBytes; bytes *= 2) {
    buffer.resize(bytes);
    err = ask(&entry, buffer.data(), buffer.size(), &found);
  }
  return err == 0 ? found : nullptr;
}

std::string text(const char* from) {
  return from != nullptr ? field(from) : std::string();
}

std::string line_of(const passwd* user) {
  return user == nullptr ? ""
                         : text(user->pw_name) + ":x:" + std::to_string(user->pw_uid) + ':' +
                               std::to_string(user->pw_gid) + ':' + text(user->pw_gecos) + ':' +
                               text(user->pw_dir) + ':' + text(user->pw_shell);
}

std::string line_of(const group* found) {
  return found == nullptr ? "" : text(found->gr_name) + ":x:" + std::to_string(found->gr_gid) + ':';
}

std::string answer(const Question& question, std::vector<char>& buffer) {
  passwd user = {};
  group members = {};
  const char* const name = question.value.c_str();
  const auto id = number_of(question.value);
  switch (question.key) {
    case Key::kUserId:
      return id ? line_of(find(user, buffer, [&](auto... to) { return ::getpwuid_r(*id, to...); }))
                : "";
    case Key::kUserName:
      return line_of(find(user, buffer, [&](auto... to) { return ::getpwnam_r(name, to...); }));
    case Key::kGroupId:
      return id ? line_of(
                      find(members, buffer, [&](auto... to) { return ::getgrgid_r(*id, to...); }))
                : "";
    case Key::kGroupName:
      return line_of(find(members, buffer, [&](auto... to) { return ::getgrnam_r(name, to...); }));
  }
  return "";
}

}  // namespace

std::vector<std::string> look_up(std::span<const Question> questions) {
  std::vector<std::string> lines;
  std::vector<char> buffer;
  for (const Question& question : questions) {
    lines.push_back(answer(question, buffer));
  }
  return lines;
}

}  // namespace postern::accounts
