#include "frontend/start/id_map.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/system/spawn.h"
#include "frontend/system/subids.h"
#include "policy/accounts/accounts.h"

namespace postern::start {
namespace {

int write_file(const char* path, std::string_view text) noexcept {
  const UniqueFd file(::open(path, O_WRONLY | O_CLOEXEC));
  if (!file.valid()) {
    return errno;
  }
  // One write(2): the kernel takes a map in a single piece.
  return ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0
                                                                                            : errno;
}

int write_map(const char* path, unsigned inside, unsigned outside) noexcept {
  std::array<char, 40> line{};
  char* at = std::to_chars(line.data(), line.data() + 12, inside).ptr;
  *at++ = ' ';
  at = std::to_chars(at, at + 12, outside).ptr;
  *at++ = ' ';
  *at++ = '1';
  return write_file(path, {line.data(), static_cast<std::size_t>(at - line.data())});
}

// Not <fstream>: its locale machinery would be set up at every start of the program.
std::string read_text(const char* path) {
  std::string text;
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> buffer;
  for (ssize_t got = 0;
       file.valid() && (got = ::read(file.get(), buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

bool holds(const char* path, std::string_view value) {
  const std::string text = read_text(path);
  return std::string_view(text).substr(0, text.find('\n')) == value;
}

std::vector<std::string> map_arguments(const char* program,
                                       pid_t target,
                                       unsigned own,
                                       const std::vector<system::IdRange>& ranges) {
  std::vector<std::string> arguments = {program, std::to_string(target), "0", std::to_string(own),
                                        "1"};
  std::uint64_t next = 1;
  for (const system::IdRange& range : ranges) {
    arguments.insert(arguments.end(), {std::to_string(next), std::to_string(range.first),
                                       std::to_string(range.count)});
    next += range.count;
  }
  return arguments;
}

Outcome<Ok> run_mapper(std::vector<std::string> words) {
  const std::string program = words[0];
  const auto pid = system::spawn({.program = program, .words = std::move(words)});
  if (!pid) {
    return system_problem("running " + program, pid.error().err,
                          "install the package uidmap (shadow-utils), or use a root-mapped "
                          "namespace by having no entry in /etc/subuid");
  }
  if (system::wait_for_end(*pid) != 0) {
    return Problem{.what = program + " refused to map the subordinate ids",
                   .cure =
                       "check that it is installed setuid root, and your lines in /etc/subuid "
                       "and /etc/subgid"};
  }
  return Ok{};
}

// A child that waits, in a new user namespace, until the other side of `channel` closes. It says
// when it can be looked at: this process may hold a volume key, and then its child's files in /proc
// are root's until it is dumpable. ORDER: no descriptor of the key is left in it by then.
pid_t start_holder(int channel) {
  const pid_t pid = static_cast<pid_t>(
      ::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const auto kept = static_cast<unsigned>(channel);
    char byte = 0;
    const bool ready = (channel == 3 || ::close_range(3, kept - 1, 0) == 0) &&
                       ::close_range(kept + 1, ~0U, 0) == 0 && ::prctl(PR_SET_DUMPABLE, 1) == 0 &&
                       ::write(channel, &byte, 1) == 1;
    ::_exit(ready && ::read(channel, &byte, 1) == 0 ? 0 : 1);
  }
  return pid;
}

// A user namespace that `map`, given the process in it, fills with ids.
template <class Map>
Outcome<UniqueFd> make_namespace(Map map) {
  std::array<int, 2> pair = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("creating a socket pair", errno);
  }
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  const pid_t holder = start_holder(theirs.get());
  if (holder < 0) {
    const int err = errno;
    return system_problem("creating a user namespace", err, user_namespace_cure(err));
  }
  theirs.reset();
  char byte = 0;
  (void)::read(ours.get(), &byte, 1);  // 0: it has ended, which what follows finds
  Outcome<> mapped = map(holder);
  UniqueFd ns(
      ::open(("/proc/" + std::to_string(holder) + "/ns/user").c_str(), O_RDONLY | O_CLOEXEC));
  const int err = errno;
  ours.reset();
  ::waitpid(holder, nullptr, 0);
  if (!mapped) {
    return std::move(mapped).error();
  }
  if (!ns.valid()) {
    return system_problem("opening the user namespace", err, "is /proc mounted?");
  }
  return ns;
}

// Each id to itself.
std::string identity_map(const std::vector<system::IdRange>& ranges) {
  std::string text;
  for (const system::IdRange& range : ranges) {
    const std::string first = std::to_string(range.first);
    text += first + ' ' + first + ' ' + std::to_string(range.count) + '\n';
  }
  return text;
}

}  // namespace

int map_single_id(Ids outside, bool as_root) noexcept {
  // user_namespaces(7): without CAP_SETGID outside, gid_map is writable only once setgroups is
  // denied.
  if (const int err = write_file("/proc/self/setgroups", "deny"); err != 0) {
    return err;
  }
  if (const int err = write_map("/proc/self/uid_map", as_root ? 0 : outside.uid, outside.uid);
      err != 0) {
    return err;
  }
  return write_map("/proc/self/gid_map", as_root ? 0 : outside.gid, outside.gid);
}

Outcome<UniqueFd> make_single_id_namespace(Ids outside, bool as_root) {
  return make_namespace([&](pid_t holder) -> Outcome<> {
    const std::string place = "/proc/" + std::to_string(holder);
    int err = write_file((place + "/setgroups").c_str(), "deny");
    if (err == 0) {
      err = write_map((place + "/uid_map").c_str(), as_root ? 0 : outside.uid, outside.uid);
    }
    if (err == 0) {
      err = write_map((place + "/gid_map").c_str(), as_root ? 0 : outside.gid, outside.gid);
    }
    return err == 0
               ? Outcome<>()
               : system_problem("mapping ids in a user namespace", err, user_namespace_cure(err));
  });
}

Outcome<UniqueFd> make_subordinate_namespace(Ids outside) {
  const auto user = accounts::find_user(outside.uid);
  const std::string name = user ? user->name : "";
  const system::SubordinateIds ids = system::subordinate_ids(name, outside.uid, outside.gid);
  if (!ids.usable()) {
    return Problem{.what = "no subordinate ids for " +
                           (name.empty() ? "uid " + std::to_string(outside.uid) : name),
                   .cure =
                       "ask for a line in /etc/subuid and in /etc/subgid (usermod "
                       "--add-subuids 100000-165535 --add-subgids 100000-165535)"};
  }
  return make_namespace([&](pid_t holder) -> Outcome<> {
    POSTERN_TRY(run_mapper(map_arguments("newuidmap", holder, outside.uid, ids.users)));
    return run_mapper(map_arguments("newgidmap", holder, outside.gid, ids.groups));
  });
}

Outcome<UniqueFd> make_all_ids_namespace() {
  return make_namespace([](pid_t holder) -> Outcome<> {
    const std::string place = "/proc/" + std::to_string(holder);
    int err = write_file((place + "/uid_map").c_str(), identity_map(system::own_user_ids()));
    if (err == 0) {
      err = write_file((place + "/gid_map").c_str(), identity_map(system::own_group_ids()));
    }
    return err == 0 ? Outcome<>()
                    : system_problem("mapping all ids in a user namespace", err,
                                     user_namespace_cure(err));
  });
}

std::string user_namespace_cure(int err) {
  if (holds("/proc/sys/user/max_user_namespaces", "0")) {
    return "user namespaces are switched off: set sysctl user.max_user_namespaces=10000, or use "
           "the "
           "setuid installation";
  }
  if (holds("/proc/sys/kernel/unprivileged_userns_clone", "0")) {
    return "user namespaces are for root only: set sysctl kernel.unprivileged_userns_clone=1, or "
           "use the setuid installation";
  }
  if (holds("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")) {
    return "AppArmor restricts user namespaces: set sysctl "
           "kernel.apparmor_restrict_unprivileged_userns=0 or install a profile for postern";
  }
  if (err == ENOSPC || err == EUSERS) {
    return "too many user namespaces, or nested too deeply: raise sysctl user.max_user_namespaces";
  }
  if (err == EAGAIN || err == ENOMEM) {
    return "no more processes or memory: raise `ulimit -u`";
  }
  return "a security module or an outer container forbids user namespaces; `postern doctor` says "
         "what this host offers";
}

}  // namespace postern::start
