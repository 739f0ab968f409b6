#include "frontend/start/cgroup/group.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <vector>

#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "frontend/system/read_file.h"

namespace postern::start::cgroup {
namespace {

constexpr std::string_view kRoom = "postern";
constexpr std::string_view kSelf = "self";
// Whoever holds the lock makes or removes some directories. A stopped process may hold it longer.
constexpr int kLockTries = 12'000;
constexpr long kLockPause = 10'000'000;  // nanoseconds
constexpr int kMoveRounds = 100;         // processes may be born while their group is emptied

const std::string kDelegate =
    "have a group of your own: systemd-run --user --scope -p Delegate=yes postern …; or leave the "
    "limits to your batch system";

int write_text(const std::string& path, std::string_view text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.valid()) {
    return errno;
  }
  return ::write(file.get(), text.data(), text.size()) < 0 ? errno : 0;
}

std::string read_line(const std::string& path) {
  std::string text = system::read_small_file(path).value_or("");
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

// "cpuset cpu io memory"
std::vector<std::string> words_of(const std::string& path) {
  const std::string text = read_line(path);
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

bool lists(const std::string& path, std::string_view word) {
  const std::vector<std::string> words = words_of(path);
  return std::find(words.begin(), words.end(), word) != words.end();
}

std::string parent_of(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

std::vector<std::string> subdirectories(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->is_directory(error)) {
      names.push_back(entry->path().filename().string());
    }
  }
  return names;
}

// A group and the groups in it, from below. The kernel keeps those with processes.
void remove_groups(const std::string& path, int depth = 0) {
  constexpr int kMostDepth = 16;
  if (::rmdir(path.c_str()) == 0 || depth == kMostDepth) {
    return;
  }
  for (const std::string& name : subdirectories(path)) {
    remove_groups(path + '/' + name, depth + 1);
  }
  ::rmdir(path.c_str());
}

UniqueFd open_directory(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

bool is_same_file(int fd, const std::string& path) {
  struct stat held = {};
  struct stat named = {};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

// The room, locked until the descriptor is closed. Another start may remove it between any two of
// these steps. `create` is false for somebody who only tidies up: no room, nothing to do.
Outcome<UniqueFd> lock_room(const std::string& room, bool create) {
  for (int tries = 0; tries < kLockTries; ++tries) {
    // Only this user, and root, may open it: nobody else can hold the lock.
    if (create && ::mkdir(room.c_str(), 0700) != 0 && errno != EEXIST) {
      return system_problem("making the control group " + room, errno, kDelegate);
    }
    UniqueFd directory = open_directory(room);
    if (!directory.valid() && (errno != ENOENT || !create)) {
      return system_problem("opening the control group " + room, errno, kDelegate);
    }
    if (directory.valid() && ::flock(directory.get(), LOCK_EX | LOCK_NB) == 0) {
      if (is_same_file(directory.get(), room)) {
        return directory;
      }
      continue;
    }
    const timespec pause{.tv_sec = 0, .tv_nsec = kLockPause};
    ::nanosleep(&pause, nullptr);
  }
  return Problem{.what = "another process holds the lock of the control group " + room,
                 .cure = "look for a stopped start of yours: ps -C postern"};
}

// Groups of front ends that were killed: nobody holds their lock.
void remove_dead(const std::string& room) {
  for (const std::string& name : subdirectories(room)) {
    const std::string path = room + '/' + name;
    if (name == kSelf) {
      continue;
    }
    const UniqueFd directory = open_directory(path);
    if (directory.valid() && ::flock(directory.get(), LOCK_EX | LOCK_NB) == 0) {
      remove_groups(path);
    }
  }
}

// The processes of one group into another. Some may be born meanwhile.
int move_processes(const std::string& from, const std::string& to) {
  for (int round = 0; round < kMoveRounds; ++round) {
    const auto pids = system::read_small_file(from + "/cgroup.procs");
    if (!pids) {
      return errno;
    }
    if (pids->empty()) {
      return 0;
    }
    for (std::size_t begin = 0; begin < pids->size();) {
      const std::size_t end = std::min(pids->find('\n', begin), pids->size());
      const std::string pid = pids->substr(begin, end - begin);
      begin = end + 1;
      if (pid == "0") {
        return EXDEV;  // a process of another PID namespace
      }
      const int err = write_text(to + "/cgroup.procs", pid);
      if (err != 0 && err != ESRCH) {
        return err;
      }
    }
  }
  return EBUSY;
}

// Whether a start uses the room. With the lock held, after remove_dead().
bool is_in_use(const std::string& room) {
  const std::vector<std::string> names = subdirectories(room);
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name != kSelf; });
}

// Takes the controllers from the groups of the room, and from the room.
void disable(const std::string& room) {
  for (const std::string& directory : {room, parent_of(room)}) {
    for (const std::string& name : words_of(directory + "/cgroup.subtree_control")) {
      write_text(directory + "/cgroup.subtree_control", '-' + name);
    }
  }
}

// The last one to leave puts everything back. With the lock held.
void tidy(const std::string& room) {
  remove_dead(room);
  if (is_in_use(room)) {
    return;
  }
  const std::string self = room + '/' + std::string(kSelf);
  if (::access(self.c_str(), F_OK) == 0) {
    // Our group held processes before, so it had given no controller to groups below it.
    disable(room);
    if (move_processes(self, parent_of(room)) != 0) {
      return;
    }
  }
  remove_groups(room);
}

// Tidies up when it goes, unless all went well.
class RoomGuard {
 public:
  RoomGuard(const std::string& room, UniqueFd lock) : room_(room), lock_(std::move(lock)) {}

  ~RoomGuard() {
    if (!keep_) {
      tidy(room_);
    }
  }

  RoomGuard(const RoomGuard&) = delete;
  RoomGuard& operator=(const RoomGuard&) = delete;

  void keep() noexcept { keep_ = true; }

 private:
  const std::string& room_;
  UniqueFd lock_;
  bool keep_ = false;
};

bool may_change(const std::string& directory) {
  const auto writable = [](const std::string& path) {
    return ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) == 0;
  };
  return writable(directory) && writable(directory + "/cgroup.procs") &&
         writable(directory + "/cgroup.subtree_control");
}

bool is_root_group(const std::string& directory) {
  return ::access((directory + "/cgroup.type").c_str(), F_OK) != 0;
}

Problem missing_controller(const Place& place, const std::string& name) {
  const std::string what = "the controller " + name + ", which a limit of this start needs, ";
  if (std::find(place.of_version_1.begin(), place.of_version_1.end(), name) !=
      place.of_version_1.end()) {
    return Problem{
        .what = what + "belongs to control groups version 1 on this host (a hybrid set-up)",
        .cure =
            "start the host with systemd.unified_cgroup_hierarchy=1 on the kernel's "
            "command line, or leave the limits to your batch system"};
  }
  if (!lists(place.top + "/cgroup.controllers", name)) {
    return Problem{
        .what = what + "is not there: " + place.top + "/cgroup.controllers has no " + name,
        .cure = "have the kernel start with it (no cgroup_disable=" + name +
                "), or the outer container pass it on; else leave the limit out"};
  }
  return Problem{.what = what + "was not passed on to " + place.directory,
                 .cure = "have it delegated (systemd: Delegate=" + name +
                         " of user@.service or of the job's unit), or leave the limit out"};
}

// Above our own group: makes what is there reach it, as far as those groups are ours as well.
Outcome<> pass_down(const Place& place, std::string directory, const std::string& controller) {
  std::vector<std::string> chain;  // from below
  while (!lists(directory + "/cgroup.controllers", controller)) {
    if (directory.size() <= place.top.size()) {
      return missing_controller(place, controller);
    }
    directory = parent_of(directory);
    if (!may_change(directory)) {
      return missing_controller(place, controller);
    }
    chain.push_back(directory);
  }
  for (auto above = chain.rbegin(); above != chain.rend(); ++above) {
    if (const int err = write_text(*above + "/cgroup.subtree_control", '+' + controller);
        err != 0) {
      return err == EBUSY
                 ? missing_controller(place, controller)
                 : system_problem("enabling the controller " + controller + " in " + *above, err);
    }
  }
  return Ok{};
}

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// A start out of the processes that another one has moved aside finds the same room.
std::string room_of(const Place& place) {
  const std::string parent = parent_of(place.directory);
  if (base_name(place.directory) == kSelf && base_name(parent) == kRoom && may_change(parent)) {
    return parent;
  }
  return place.directory + '/' + std::string(kRoom);
}

Outcome<> check_place(const Place& place) {
  struct statfs info = {};
  if (::statfs(place.directory.c_str(), &info) != 0 || info.f_type != CGROUP2_SUPER_MAGIC) {
    return Problem{.what = "the control group of this process is not at " + place.directory,
                   .cure = "something is mounted over it: leave the limits to your batch system"};
  }
  if ((info.f_flags & ST_RDONLY) != 0) {
    return Problem{.what = "control groups are mounted read-only at " + place.top,
                   .cure = "start outside of the outer container, or leave the limits to it"};
  }
  if (!may_change(place.directory)) {
    return Problem{.what = "limits need a control group of your own, and " + place.directory +
                           " belongs to somebody else",
                   .cure = kDelegate};
  }
  const std::string type = read_line(place.directory + "/cgroup.type");
  // "domain threaded" is one with processes in it and groups below: domain again once they move.
  if (type == "threaded" || type == "domain invalid") {
    return Problem{.what = "the control group " + place.directory + " is of the type \"" + type +
                           "\", below which there are no limits of memory",
                   .cure = kDelegate};
  }
  return Ok{};
}

Problem not_emptied(const std::string& own, int err) {
  if (err == EXDEV) {
    return Problem{.what = "the control group " + own + " holds processes of another PID namespace",
                   .cure = "start outside of the outer container, or leave the limits to it"};
  }
  return system_problem("moving the processes of the control group " + own + " aside", err,
                        kDelegate);
}

// Gives the groups of the room these controllers.
Outcome<> enable(const std::string& room, const std::vector<std::string>& controllers) {
  const std::string own = parent_of(room);
  // With some controllers enabled a group may take processes as long as those below it have none,
  // which then cannot take any (cgroups(7), "threaded").
  if (read_line(own + "/cgroup.type") == "domain threaded") {
    if (is_in_use(room)) {
      return Problem{.what = "processes were moved into " + own + " while a start is using it",
                     .cure = "try again; if it happens again, move them elsewhere"};
    }
    disable(room);
  }
  if (!is_root_group(own) && !read_line(own + "/cgroup.procs").empty()) {
    const std::string self = room + '/' + std::string(kSelf);
    if (::mkdir(self.c_str(), 0755) != 0 && errno != EEXIST) {
      return system_problem("making the control group " + self, errno);
    }
    if (const int err = move_processes(own, self); err != 0) {
      return not_emptied(own, err);
    }
  }
  for (const std::string& directory : {own, room}) {
    for (const std::string& name : controllers) {
      const std::string file = directory + "/cgroup.subtree_control";
      const int err = lists(file, name) ? 0 : write_text(file, '+' + name);
      if (err != 0) {
        return system_problem("enabling the controller " + name + " in " + directory, err,
                              kDelegate);
      }
    }
  }
  return Ok{};
}

Outcome<std::string> make_directory(const std::string& room) {
  for (int number = 0;; ++number) {
    std::string name = std::to_string(::getpid()) + '-' + std::to_string(number);
    if (::mkdir((room + '/' + name).c_str(), 0700) == 0) {
      return name;
    }
    if (errno != EEXIST) {
      return system_problem(
          "making a control group in " + room, errno,
          errno == EAGAIN ? "cgroup.max.descendants of a group above is reached" : "");
    }
  }
}

// The kernel takes processors that the group above does not have, and then ignores the list.
Outcome<> check_cpuset(const std::string& group, const Setting::Way& way) {
  if (way.file != "cpuset.cpus" && way.file != "cpuset.mems") {
    return Ok{};
  }
  const std::string effective = read_line(group + '/' + way.file + ".effective");
  const auto wanted = parse_cpu_list(way.value);
  if (wanted && wanted != parse_cpu_list(effective)) {
    return Problem{
        .what = way.file + ": " + way.value + " is more than this start has, which is " + effective,
        .cure = "ask for some of " + effective};
  }
  return Ok{};
}

Outcome<> apply(const std::string& group, const Setting& setting) {
  for (const Setting::Way& way : setting.ways) {
    const std::string file = group + '/' + way.file;
    if (::access(file.c_str(), F_OK) != 0) {
      continue;
    }
    if (const int err = write_text(file, way.value); err != 0) {
      return system_problem("the limit " + way.file + " = " + way.value, err,
                            err == EINVAL || err == ERANGE || err == ENODEV || err == EOPNOTSUPP
                                ? "the kernel does not take this value here: give another"
                                : "");
    }
    return check_cpuset(group, way);
  }
  const std::string& first = setting.ways.front().file;
  // "max" is what a kernel without swap, or without its accounting, has anyway.
  if (first == "memory.swap.max" && setting.ways.front().value == "max") {
    return Ok{};
  }
  return Problem{.what = "the kernel of this host has no limit " + first +
                         (setting.ways.size() > 1 ? " or " + setting.ways.back().file : ""),
                 .cure = first == "memory.swap.max"
                             ? "leave out --memory-swap: the kernel was started with swapaccount=0"
                             : "leave this limit out, or have the kernel built with it"};
}

std::vector<std::string> controllers_of(std::span<const Setting> settings) {
  std::vector<std::string> names;
  for (const Setting& setting : settings) {
    if (std::find(names.begin(), names.end(), setting.controller()) == names.end()) {
      names.emplace_back(setting.controller());
    }
  }
  return names;
}

// Whether a group with these controllers can be made below the one in which this process runs.
Outcome<> check(const Place& place, const std::vector<std::string>& controllers) {
  // What the host does not have at all is said before whose group this is.
  for (const std::string& name : controllers) {
    if (!lists(place.top + "/cgroup.controllers", name)) {
      return missing_controller(place, name);
    }
  }
  POSTERN_TRY(check_place(place));
  for (const std::string& name : controllers) {
    POSTERN_TRY(pass_down(place, parent_of(room_of(place)), name));
  }
  return Ok{};
}

}  // namespace

Outcome<Group> Group::make(std::span<const Setting> settings) {
  const std::vector<std::string> controllers = controllers_of(settings);
  POSTERN_TRY_ASSIGN(const Place place, find_place());
  POSTERN_TRY(check(place, controllers));
  const std::string room = room_of(place);
  POSTERN_TRY_ASSIGN(UniqueFd lock, lock_room(room, true));
  RoomGuard guard(room, std::move(lock));
  remove_dead(room);
  POSTERN_TRY(enable(room, controllers));
  POSTERN_TRY_ASSIGN(const std::string name, make_directory(room));
  const std::string path = room + '/' + name;
  // ORDER: closed, and so unlocked, before the guard tidies up after an error.
  UniqueFd directory = open_directory(path);
  if (!directory.valid() || ::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
    return system_problem("locking the control group " + path, errno);
  }
  for (const Setting& setting : settings) {
    POSTERN_TRY(apply(path, setting));
  }
  guard.keep();
  return Group(room, name, std::move(directory));
}

Outcome<UniqueFd> Group::open_procs() const {
  UniqueFd file(::openat(directory_.get(), "cgroup.procs", O_WRONLY | O_CLOEXEC));
  if (!file.valid()) {
    return system_problem("opening cgroup.procs of the control group " + room_ + '/' + name_,
                          errno);
  }
  return file;
}

unsigned long Group::killed_for_memory() const {
  const std::string text =
      system::read_small_file(room_ + '/' + name_ + "/memory.events").value_or("");
  constexpr std::string_view kKey = "\noom_kill ";
  const auto at = text.find(kKey);
  unsigned long count = 0;
  if (at != text.npos) {
    std::from_chars(text.data() + at + kKey.size(), text.data() + text.size(), count);
  }
  return count;
}

void Group::remove() noexcept {
  if (!directory_.valid()) {
    return;
  }
  directory_.reset();
  if (const auto lock = lock_room(room_, false)) {
    tidy(room_);
  }
}

}  // namespace postern::start::cgroup
