#include "frontend/plan/caller.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <unistd.h>

#include "policy/accounts/accounts.h"

namespace postern::plan {
namespace {

// The caller's groups, the primary one first, each once.
void read_groups(Identity& identity) {
  std::vector<gid_t> groups{identity.gid};
  if (const int count = ::getgroups(0, nullptr); count > 0) {
    groups.resize(static_cast<std::size_t>(count) + 1);
    const int filled = ::getgroups(count, groups.data() + 1);
    groups.resize(filled < 0 ? 1 : static_cast<std::size_t>(filled) + 1);
  }
  for (const gid_t gid : groups) {
    const bool known = std::any_of(identity.groups.begin(), identity.groups.end(),
                                   [gid](const auto& group) { return group.first == gid; });
    if (!known) {
      identity.groups.emplace_back(gid, "");
    }
  }
}

// All names in one question: what is not in the files costs a program.
void read_names(Identity& identity) {
  std::vector<accounts::Question> questions = {
      {accounts::Key::kUserId, std::to_string(identity.uid)}};
  for (const auto& [gid, name] : identity.groups) {
    questions.push_back({accounts::Key::kGroupId, std::to_string(gid)});
  }
  const std::vector<std::string> lines = accounts::look_up(questions);
  if (std::optional<accounts::User> user = accounts::user_of_line(lines[0])) {
    identity.name = std::move(user->name);
    identity.gecos = std::move(user->gecos);
    identity.home = std::move(user->home);
    identity.shell = std::move(user->shell);
  } else {
    // Batch nodes may know no names. HOME is what the login gave us.
    const char* home = ::getenv("HOME");  // NOLINT(concurrency-mt-unsafe): one thread
    identity.home = home != nullptr && home[0] == '/' ? home : "";
  }
  for (std::size_t i = 0; i < identity.groups.size(); ++i) {
    if (std::optional<accounts::Group> group = accounts::group_of_line(lines[i + 1])) {
      identity.groups[i].second = std::move(group->name);
    }
  }
}

std::string current_directory() {
  struct stat logical = {};
  struct stat physical = {};
  const char* pwd = ::getenv("PWD");  // NOLINT(concurrency-mt-unsafe): one thread
  if (pwd != nullptr && pwd[0] == '/' && ::stat(pwd, &logical) == 0 &&
      ::stat(".", &physical) == 0 && logical.st_dev == physical.st_dev &&
      logical.st_ino == physical.st_ino) {
    return pwd;
  }
  char* path = ::get_current_dir_name();
  std::string directory = path != nullptr && path[0] == '/' ? path : "";
  ::free(path);  // NOLINT(cppcoreguidelines-no-malloc): get_current_dir_name(3) allocates
  return directory;
}

void read_signals(Caller& caller) {
  sigset_t blocked;
  if (::sigprocmask(SIG_BLOCK, nullptr, &blocked) != 0) {
    return;
  }
  for (int number = 1; number < 64; ++number) {
    const std::uint64_t bit = std::uint64_t{1} << (number - 1);
    struct sigaction action = {};
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
      caller.ignored_signals |= bit;
    }
    if (::sigismember(&blocked, number) == 1) {
      caller.blocked_signals |= bit;
    }
  }
}

}  // namespace

Caller read_caller() {
  Caller caller;
  caller.identity.uid = ::getuid();
  caller.identity.gid = ::getgid();
  read_groups(caller.identity);
  read_names(caller.identity);
  caller.directory = current_directory();
  const mode_t mask = ::umask(0);
  ::umask(mask);
  caller.umask = mask;
  read_signals(caller);
  // A limit of file sizes (`ulimit -f`) is an error with words from here on, not a signal.
  ::signal(SIGXFSZ, SIG_IGN);
  return caller;
}

}  // namespace postern::plan
