#include "frontend/plan/caller.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include <sys/stat.h>

#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include "frontend/system/read_file.h"

namespace postern::plan {
namespace {

// Grows the buffer until the entry fits (getpwuid_r(3): ERANGE); entries of directories have no
// other bound than this one.
constexpr std::size_t kMaxEntryBytes = 1024 * 1024;

void ask_for_user(Identity& identity) {
  std::vector<char> buffer(4096);
  struct passwd entry = {};
  struct passwd* found = nullptr;
  while (::getpwuid_r(identity.uid, &entry, buffer.data(), buffer.size(), &found) == ERANGE &&
         buffer.size() < kMaxEntryBytes) {
    buffer.resize(buffer.size() * 2);
  }
  if (found == nullptr) {
    // Batch nodes may know no names. HOME is what the login gave us.
    const char* home = ::getenv("HOME");  // NOLINT(concurrency-mt-unsafe): one thread
    identity.home = home != nullptr && home[0] == '/' ? home : "";
    return;
  }
  const auto text = [](const char* from) { return std::string(from != nullptr ? from : ""); };
  identity.name = text(found->pw_name);
  identity.gecos = text(found->pw_gecos);
  identity.home = text(found->pw_dir);
  identity.shell = text(found->pw_shell);
}

std::string group_name(gid_t gid) {
  std::vector<char> buffer(4096);
  struct group entry = {};
  struct group* found = nullptr;
  while (::getgrgid_r(gid, &entry, buffer.data(), buffer.size(), &found) == ERANGE &&
         buffer.size() < kMaxEntryBytes) {
    buffer.resize(buffer.size() * 2);
  }
  return found != nullptr ? found->gr_name : "";
}

void read_groups(Identity& identity, std::string_view services) {
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
  if (files_come_first(services, "group")) {
    name_groups(system::read_small_file("/etc/group").value_or(""), identity);
  }
  for (auto& [gid, name] : identity.groups) {
    if (name.empty()) {
      name = group_name(gid);
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
  const std::string services = system::read_small_file("/etc/nsswitch.conf").value_or("");
  if (!files_come_first(services, "passwd") ||
      !read_user(system::read_small_file("/etc/passwd").value_or(""), caller.identity)) {
    ask_for_user(caller.identity);
  }
  read_groups(caller.identity, services);
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
