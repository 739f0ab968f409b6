// Looks for ways from a container back to the tree that it was started in, with whatever
// capabilities it has, and says each way that led to a file of that name in a root directory.
// Static: it runs in any container.
//
// Usage: escape MARK            the ways, tried one after the other; ends with 1 if one of them led
// there
//        escape --bare MARK     first makes a container of its own as switch_root does, and nothing
//        else, where they must lead there
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace {

const char* mark;
constexpr int kDepth = 64;

bool is_there(int directory) {
  struct stat status = {};
  return ::fstatat(directory, mark, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

// The directory, and all above it.
bool leads_there(int directory) {
  if (is_there(directory)) {
    return true;
  }
  std::string up = "..";
  for (int i = 0; i < kDepth; ++i, up += "/..") {
    const int fd = ::openat(directory, up.c_str(), O_PATH | O_DIRECTORY);
    const bool found = fd >= 0 && is_there(fd);
    ::close(fd);
    if (found) {
      return true;
    }
  }
  return false;
}

bool path_leads_there(const char* path) {
  const int fd = ::open(path, O_PATH | O_DIRECTORY);
  const bool found = fd >= 0 && leads_there(fd);
  ::close(fd);
  return found;
}

bool root_or_directory() {
  return path_leads_there("/") || path_leads_there(".");
}

// An empty directory of ours, on a tmpfs if there may be one.
std::string room() {
  for (const char* parent : {"/tmp", "/dev/shm", "/var/tmp", "/mnt", "/"}) {
    std::string name = std::string(parent) + "/escape.XXXXXX";
    if (::mkdtemp(name.data()) != nullptr) {
      return name;
    }
  }
  return "/tmp";
}

bool by_dots() {
  return root_or_directory();
}

bool by_nested_chroot() {
  const int outside = ::open("/", O_RDONLY | O_DIRECTORY);
  if (::chroot(room().c_str()) != 0 || ::fchdir(outside) != 0) {
    return false;
  }
  for (int i = 0; i < kDepth; ++i) {
    if (::chdir("..") != 0 || is_there(AT_FDCWD)) {
      break;
    }
  }
  return ::chroot(".") == 0 && root_or_directory();
}

// What lies on the root is taken away, as often as there is something, and the own namespace is
// entered once more.
bool by_taking_away() {
  const int space = ::open("/proc/self/ns/mnt", O_RDONLY);
  for (int i = 0; i < 8; ++i) {
    (void)::umount2("/", MNT_DETACH);
    if (root_or_directory() || (::setns(space, CLONE_NEWNS) == 0 && root_or_directory())) {
      return true;
    }
  }
  return false;
}

bool by_moving_the_root() {
  const std::string place = room();
  (void)::mount("escape", place.c_str(), "tmpfs", 0, nullptr);
  const int space = ::open("/proc/self/ns/mnt", O_RDONLY);
  const std::string below = place + "/below";
  ::mkdir(below.c_str(), 0700);
  (void)::mount("/", below.c_str(), nullptr, MS_MOVE, nullptr);
  (void)::mount("/", place.c_str(), nullptr, MS_MOVE, nullptr);
  return root_or_directory() || (::setns(space, CLONE_NEWNS) == 0 && root_or_directory());
}

bool by_pivoting() {
  const std::string place = room();
  const int space = ::open("/proc/self/ns/mnt", O_RDONLY);
  if (::mount("escape", place.c_str(), "tmpfs", 0, nullptr) != 0 || ::chdir(place.c_str()) != 0 ||
      ::mkdir("old", 0700) != 0 || ::syscall(SYS_pivot_root, ".", "old") != 0) {
    return false;
  }
  if (root_or_directory() || path_leads_there("/old")) {
    return true;
  }
  for (int i = 0; i < 8; ++i) {
    (void)::umount2("/old", MNT_DETACH);
    (void)::umount2("/", MNT_DETACH);
    if (root_or_directory() || (::setns(space, CLONE_NEWNS) == 0 && root_or_directory())) {
      return true;
    }
  }
  return false;
}

bool by_cloning() {
  for (const char* path : {"/", "/..", ".", "/proc/self/root", "/proc/self/cwd"}) {
    for (const int deep : {0, AT_RECURSIVE}) {
      const int tree =
          static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | deep));
      if (tree >= 0 && (leads_there(tree) || (::fchdir(tree) == 0 && root_or_directory()))) {
        return true;
      }
    }
  }
  return false;
}

bool by_mounting_it() {
  for (const char* type : {"rootfs", "ramfs", "tmpfs", "devtmpfs"}) {
    const std::string place = room();
    if (::mount("escape", place.c_str(), type, 0, nullptr) == 0 &&
        path_leads_there(place.c_str())) {
      return true;
    }
  }
  return false;
}

std::vector<std::string> entries(const std::string& directory) {
  std::vector<std::string> out;
  if (DIR* const stream = ::opendir(directory.c_str()); stream != nullptr) {
    while (const dirent* const entry = ::readdir(stream)) {
      if (entry->d_name[0] != '.') {
        out.push_back(directory + "/" + entry->d_name);
      }
    }
    ::closedir(stream);
  }
  return out;
}

bool by_descriptors() {
  for (const std::string& path : entries("/proc/self/fd")) {
    const int fd = std::atoi(path.c_str() + std::strlen("/proc/self/fd/"));
    struct stat status = {};
    if (::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode) && leads_there(fd)) {
      return true;
    }
  }
  return false;
}

// Every process that is seen: its root, its directory, its open directories.
bool by_processes() {
  for (const std::string& process : entries("/proc")) {
    if (::atoi(process.c_str() + std::strlen("/proc/")) == 0) {
      continue;
    }
    if (path_leads_there((process + "/root").c_str()) ||
        path_leads_there((process + "/cwd").c_str())) {
      return true;
    }
    for (const std::string& file : entries(process + "/fd")) {
      if (path_leads_there(file.c_str())) {
        return true;
      }
    }
  }
  return false;
}

// And its mount namespace: entered, and what lies on its root taken away there.
bool by_namespaces_of_processes() {
  for (const std::string& process : entries("/proc")) {
    const int users = ::open((process + "/ns/user").c_str(), O_RDONLY);
    const int space = ::open((process + "/ns/mnt").c_str(), O_RDONLY);
    const pid_t pid = ::fork();
    if (pid == 0) {
      bool found = false;
      if (::setns(space, CLONE_NEWNS) == 0 ||
          (::setns(users, CLONE_NEWUSER) == 0 && ::setns(space, CLONE_NEWNS) == 0)) {
        found = root_or_directory() || by_taking_away();
      }
      ::_exit(found ? 0 : 1);
    }
    int status = 1;
    ::waitpid(pid, &status, 0);
    ::close(users);
    ::close(space);
    if (status == 0) {
      return true;
    }
  }
  return false;
}

struct Way {
  const char* name;
  bool (*go)();
};

// What may change the container for the ways after it comes last.
constexpr Way kWays[] = {
    {"dots", by_dots},
    {"nested chroot", by_nested_chroot},
    {"cloning", by_cloning},
    {"descriptors", by_descriptors},
    {"processes", by_processes},
    {"mounting it", by_mounting_it},
    {"moving the root", by_moving_the_root},
    {"taking the root away", by_taking_away},
    {"namespaces of processes", by_namespaces_of_processes},
    {"pivoting", by_pivoting},
};

// Each in a process of its own. `prepare`: what that process does first.
bool try_all(const char* where, bool (*prepare)()) {
  bool found = false;
  for (const Way& way : kWays) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      if (!prepare()) {
        ::_exit(2);
      }
      ::_exit(way.go() ? 1 : 0);
    }
    int status = 0;
    ::waitpid(pid, &status, 0);
    if (WIFSIGNALED(status) || WEXITSTATUS(status) > 1) {
      std::printf("%s: %s: not tried, status %#x\n", where, way.name,
                  static_cast<unsigned>(status));
      found = true;
    } else if (WEXITSTATUS(status) == 1) {
      std::printf("%s: %s\n", where, way.name);
      found = true;
    }
    std::fflush(stdout);
  }
  return found;
}

bool nothing() {
  return true;
}

bool write_text(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY);
  const bool good =
      fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  if (!good) {
    std::perror(path);
  }
  ::close(fd);
  return good;
}

bool new_namespaces(int flags) {
  const std::string uid = std::to_string(::getuid());
  const std::string gid = std::to_string(::getgid());
  if (::unshare(CLONE_NEWUSER | flags) != 0) {
    std::perror("unshare");
    return false;
  }
  return write_text("/proc/self/setgroups", "deny") &&
         write_text("/proc/self/uid_map", uid + " " + uid + " 1") &&
         write_text("/proc/self/gid_map", gid + " " + gid + " 1");
}

bool in_namespaces_below() {
  return new_namespaces(CLONE_NEWNS);
}

bool in_a_user_namespace_below() {
  return new_namespaces(0);
}

// A tmpfs with /proc and /tmp, moved over "/", and chroot(2).
bool be_in_a_bare_container() {
  const auto proc =
      static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, "/proc", OPEN_TREE_CLONE | AT_RECURSIVE));
  return proc >= 0 && ::mount("bare", "/tmp", "tmpfs", 0, nullptr) == 0 && ::chdir("/tmp") == 0 &&
         ::mkdir("proc", 0755) == 0 && ::mkdir("tmp", 0755) == 0 &&
         ::syscall(SYS_move_mount, proc, "", AT_FDCWD, "proc", MOVE_MOUNT_F_EMPTY_PATH) == 0 &&
         ::mount(".", "/", nullptr, MS_MOVE, nullptr) == 0 && ::chroot(".") == 0 &&
         ::chdir("/") == 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool bare = argc == 3 && std::strcmp(argv[1], "--bare") == 0;
  if (argc != 2 && !bare) {
    return 2;
  }
  mark = argv[argc - 1];
  if (bare && !(new_namespaces(CLONE_NEWNS) && be_in_a_bare_container())) {
    std::printf("no bare container: %s\n", std::strerror(errno));
    return 2;
  }
  bool found = try_all("in a user namespace below", in_a_user_namespace_below);
  found = try_all("in a mount namespace below", in_namespaces_below) || found;
  found = try_all("as it is", nothing) || found;
  return found ? 1 : 0;
}
