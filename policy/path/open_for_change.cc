#include "policy/path/open_for_change.h"

#include <array>
#include <cerrno>
#include <climits>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::path {
namespace {

constexpr int kMaxLinks = 40;  // path_resolution(7)

// The inode of the first user namespace's file (PROC_USER_INIT_INO of linux/proc_ns.h).
constexpr ino_t kFirstUserNamespace = 0xEFFFFFFD;

// The link's own text. The links of proc_pid_fd(5) are no text: "" for them.
Outcome<std::string> text_of(int link, const struct stat& status, const std::string& name) {
  struct statfs system{};
  if (::fstatfs(link, &system) == 0 && system.f_type == PROC_SUPER_MAGIC) {
    return std::string();
  }
  if (status.st_uid != 0) {
    return Problem{.what = "'" + name + "' is a symbolic link of uid " +
                           std::to_string(status.st_uid) + ", which root does not follow",
                   .cure = "name the file that is meant"};
  }
  std::array<char, PATH_MAX> text{};
  const ssize_t length = ::readlinkat(link, "", text.data(), text.size());
  return length < 0 ? Outcome<std::string>(system_problem("reading the link '" + name + "'", errno))
                    : Outcome<std::string>(std::string(text.data(), static_cast<size_t>(length)));
}

// An O_PATH descriptor of what `given` names.
Outcome<UniqueFd> walk(const std::string& given) {
  UniqueFd at(::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  std::string rest = given;
  for (int links = 0; !rest.empty();) {
    if (rest.front() == '/') {
      at = UniqueFd(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
      rest.erase(0, rest.find_first_not_of('/'));
      continue;
    }
    const std::string part = rest.substr(0, rest.find('/'));
    rest.erase(0, rest.find_first_not_of('/', part.size()));
    UniqueFd next(::openat(at.get(), part.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat status{};
    if (!next.valid() || ::fstat(next.get(), &status) != 0) {
      return path_problem("opening " + given, errno, "check the path");
    }
    if (S_ISLNK(status.st_mode)) {
      POSTERN_TRY_ASSIGN(const std::string text, text_of(next.get(), status, part));
      if (++links > kMaxLinks) {
        return system_problem("opening " + given, ELOOP);
      }
      if (!text.empty()) {
        rest = text + '/' + rest;
        continue;
      }
      next = UniqueFd(::openat(at.get(), part.c_str(), O_PATH | O_CLOEXEC));
    }
    at = std::move(next);
  }
  return at;
}

}  // namespace

bool is_host_root() {
  struct stat status{};
  return ::geteuid() == 0 && ::stat("/proc/self/ns/user", &status) == 0 &&
         status.st_ino == kFirstUserNamespace;
}

Outcome<UniqueFd> open_for_change(const std::string& path, int flags) {
  std::string reached = path;
  UniqueFd place;
  if (is_host_root()) {
    POSTERN_TRY_ASSIGN(place, walk(path));
    reached = "/proc/self/fd/" + std::to_string(place.get());
  }
  UniqueFd fd(::open(reached.c_str(), flags | O_CLOEXEC | O_NOCTTY));
  if (!fd.valid()) {
    return path_problem("opening " + path, errno, "check the path");
  }
  return fd;
}

Outcome<NewFile> place_of_new_file(const std::string& path) {
  const auto slash = path.rfind('/');
  const std::string directory = slash == path.npos ? "." : path.substr(0, slash + 1);
  NewFile out = {.name = slash == path.npos ? path : path.substr(slash + 1)};
  auto opened = open_for_change(directory, O_PATH | O_DIRECTORY);
  if (!opened) {
    Problem problem = std::move(opened).error();
    problem.what.insert(0, path + ": ");
    return problem;
  }
  out.directory = *std::move(opened);
  // NewFile::path() goes through it. A chroot that packages are installed in may have none.
  if (::access("/proc/self/fd", F_OK) != 0) {
    return Problem{.what = path + ": /proc is not mounted, and a file is written through it",
                   .cure = "as root: mount -t proc proc /proc"};
  }
  return out;
}

}  // namespace postern::path
