#include "frontend/start/foreign_server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/start/image_mount.h"
#include "frontend/start/server_child.h"
#include "frontend/system/find_program.h"
#include "frontend/system/read_file.h"
#include "policy/text/split.h"
#include "protocol/base/mount_object.h"

namespace postern::start {
namespace {

constexpr int kMountMilliseconds = 10'000;
constexpr int kFlushMilliseconds = 30'000;
constexpr int kImageNumber = 3;  // of the image's descriptor in fuse2fs
// A tmpfs lies over it in the program's own mount namespace, and holds the layers of a union.
constexpr const char* kStage = "/tmp";

struct Program {
  const char* name;
  const char* cure;
};

constexpr Program kFuse2fs = {"fuse2fs",
                              "install fuse2fs (Debian: fuse2fs; RPM: e2fsprogs or fuse2fs)"};
constexpr Program kFuseOverlayfs = {
    "fuse-overlayfs", "install fuse-overlayfs, or use the overlay read-only: IMAGE:ro"};

// How many mounts lie at "/": the fifth field of proc(5)'s mountinfo.
std::size_t mounts_at_root(const std::string& process) {
  const std::string text =
      system::read_small_file("/proc/" + process + "/mountinfo").value_or(std::string());
  std::size_t count = 0;
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view line = text::next_line(rest);
    for (int field = 0; field < 4; ++field) {
      line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
    }
    count += line.starts_with("/ ") ? 1 : 0;
  }
  return count;
}

struct Setup {
  const plan::ImageServer& image;
  std::span<const Server> servers;
  const ServerOptions& options;
  std::string program;
  int log;
  int null;
  pid_t parent;
};

// After fork(2), until the program is executed. What fails is written to standard error, the log.
class Child {
 public:
  explicit Child(const Setup& setup) : setup_(setup) {}

  [[noreturn]] void run() {
    // Signals of the terminal are the payload's; this process ends when it is told to.
    ::setpgid(0, 0);
    check_child(
        ::dup2(setup_.null, 0) == 0 && ::dup2(setup_.null, 1) == 1 && ::dup2(setup_.log, 2) == 2,
        "standard streams");
    enter_namespaces();
    std::vector<std::string> words = setup_.image.served == plan::Served::kExt ? ext() : stack();
    check_child(keep_mounting(), "keeping the right to mount");
    // ORDER: after the last change of credentials, which clears it (prctl(2)). To flush and end.
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    check_child(::getppid() == setup_.parent, "the frontend has ended");
    execute_server(setup_.program, std::move(words));
  }

 private:
  void enter_namespaces() {
    if (setup_.options.user_namespace >= 0) {
      check_child(::setns(setup_.options.user_namespace, CLONE_NEWUSER) == 0,
                  "joining a user namespace");
    } else {
      check_child(::unshare(CLONE_NEWUSER) == 0, "a user namespace");
      // Its /proc files are root's until it is dumpable.
      ::prctl(PR_SET_DUMPABLE, 1);
      errno = map_single_id(setup_.options.ids, setup_.options.fakeroot != plan::Fakeroot::kNone);
      check_child(errno == 0, "mapping ids");
    }
    check_child(::unshare(CLONE_NEWNS) == 0 &&
                    ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0,
                "a mount namespace");
  }

  // A program of a user that is not root has the capabilities that are ambient (capabilities(7)).
  static bool keep_mounting() {
    __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, 2> data = {};
    if (::syscall(SYS_capget, &header, data.data()) != 0) {
      return false;
    }
    data[0].inheritable |= 1U << CAP_SYS_ADMIN;
    return ::syscall(SYS_capset, &header, data.data()) == 0 &&
           ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0) == 0;
  }

  std::vector<std::string> ext() {
    const plan::ImageServer& image = setup_.image;
    check_child(::dup2(image.image.get(), kImageNumber) == kImageNumber, "the image");
    (void)::fcntl(kImageNumber, F_SETFD, 0);
    // fakeroot: the caller may do with its own image as it likes.
    std::string options = "fakeroot,allow_other,nonempty";
    options += image.writable ? "" : ",ro";
    // As files of every other image they are the caller's, unless ids of its own are mapped.
    if (setup_.options.fakeroot == plan::Fakeroot::kNone) {
      options += ",uid=" + std::to_string(setup_.options.ids.uid) +
                 ",gid=" + std::to_string(setup_.options.ids.gid);
    } else if (setup_.options.fakeroot == plan::Fakeroot::kRootMapped) {
      options += ",uid=0,gid=0";
    }
    if (image.offset != 0) {
      options += ",offset=" + std::to_string(image.offset);
    }
    return {
        setup_.program, "-f", "-o", options, "/proc/self/fd/" + std::to_string(kImageNumber), "/"};
  }

  UniqueFd mount_of(const plan::UnionLayer& layer) {
    if (layer.server) {
      Result<UniqueFd> mount = clone_mount_of(setup_.servers[*layer.server].mount_namespace.get());
      errno = mount ? 0 : mount.error().err;
      check_child(mount.operator bool(), "a layer");
      return *std::move(mount);
    }
    UniqueFd tree(::open_tree(AT_FDCWD, layer.path.c_str(),
                              OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
    check_child(tree.valid(), layer.path);
    return tree;
  }

  std::string attach(const UniqueFd& mount, const std::string& name) {
    const std::string place = std::string(kStage) + '/' + name;
    check_child(
        ::mkdir(place.c_str(), 0755) == 0 &&
            ::move_mount(mount.get(), "", AT_FDCWD, place.c_str(), MOVE_MOUNT_F_EMPTY_PATH) == 0,
        place);
    return place;
  }

  std::vector<std::string> stack() {
    const plan::ImageServer& image = setup_.image;
    std::vector<UniqueFd> mounts;
    for (const plan::UnionLayer& layer : image.layers) {
      mounts.push_back(mount_of(layer));
    }
    check_child(::mount("postern", kStage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") == 0,
                kStage);
    std::string lower;
    for (std::size_t i = 0; i + 1 < mounts.size(); ++i) {
      std::string place = attach(mounts[i], "lower" + std::to_string(i));
      struct stat status = {};
      if (image.layers[i].may_be_overlay && ::stat((place + "/upper").c_str(), &status) == 0 &&
          S_ISDIR(status.st_mode)) {
        place += "/upper";
      }
      lower = place + (lower.empty() ? "" : ":" + lower);
    }
    const std::string top = attach(mounts.back(), "top");
    for (const char* part : {"/upper", "/work"}) {
      check_child(::mkdir((top + part).c_str(), 0755) == 0 || errno == EEXIST,
                  std::string(part + 1) + " in the overlay image");
    }
    return {setup_.program, "-f", "-o",
            "allow_other,noacl,lowerdir=" + lower + ",upperdir=" + top + "/upper,workdir=" + top +
                "/work",
            "/"};
  }

  const Setup& setup_;
};

// One line of what it said.
std::string words_of(int log) {
  std::array<char, 2048> buffer;
  const ssize_t got = ::pread(log, buffer.data(), buffer.size(), 0);
  std::string text(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

bool has_ended(pid_t pid) {
  siginfo_t info = {};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
         info.si_pid == pid;
}

Outcome<> wait_until_mounted(const plan::ImageServer& image,
                             const Program& program,
                             Server& server) {
  const std::size_t before = mounts_at_root("self");
  for (int waited = 0;; ++waited) {
    if (mounts_at_root(std::to_string(server.pid)) > before) {
      return Ok{};
    }
    const bool ended = has_ended(server.pid);
    if (ended || waited >= kMountMilliseconds) {
      const std::string said = end_foreign_server(server);
      return Problem{.what = image.path + ": " + program.name +
                             (ended ? " could not mount it" : " has not mounted it after 10 s") +
                             (said.empty() ? "" : ": " + said),
                     .cure = image.served == plan::Served::kExt
                                 ? "check the file system: e2fsck -f " + image.path
                                 : "use the overlay read-only: IMAGE:ro"};
    }
    ::poll(nullptr, 0, 1);
  }
}

}  // namespace

Outcome<Server> start_foreign_server(const plan::ImageServer& image,
                                     std::span<const Server> servers,
                                     const ServerOptions& options) {
  const Program& program = image.served == plan::Served::kExt ? kFuse2fs : kFuseOverlayfs;
  const std::string path = system::find_program(program.name);
  if (path.empty()) {
    return Problem{.what = image.path + " has an ext3 file system, and " + program.name +
                           ", which serves it, is not installed",
                   .cure = program.cure};
  }
  Server server;
  server.foreign = true;
  server.log = UniqueFd(::memfd_create("postern-foreign log", MFD_CLOEXEC));
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!server.log.valid() || !null.valid()) {
    return system_problem("making a log for the server of " + image.path, errno);
  }
  const Setup setup = {.image = image,
                       .servers = servers,
                       .options = options,
                       .program = path,
                       .log = server.log.get(),
                       .null = null.get(),
                       .parent = ::getpid()};
  server.pid = ::fork();
  if (server.pid == 0) {
    Child(setup).run();
  }
  if (server.pid < 0) {
    return system_problem("starting " + path, errno, "raise `ulimit -u`");
  }
  message::debug(std::string("serving ") + image.path + " with " + path);
  POSTERN_TRY(wait_until_mounted(image, program, server));
  const std::string of = "/proc/" + std::to_string(server.pid) + "/ns/";
  server.user_namespace = UniqueFd(::open((of + "user").c_str(), O_RDONLY | O_CLOEXEC));
  server.mount_namespace = UniqueFd(::open((of + "mnt").c_str(), O_RDONLY | O_CLOEXEC));
  if (!server.user_namespace.valid() || !server.mount_namespace.valid()) {
    const int err = errno;
    end_foreign_server(server);
    return system_problem("opening the namespaces of " + path, err);
  }
  return server;
}

std::string end_foreign_server(Server& server) {
  if (server.pid < 0) {
    return {};
  }
  server.mount_namespace.reset();
  ::kill(server.pid, SIGTERM);
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, server.pid, 0)));
  pollfd end = {process.get(), POLLIN, 0};
  if (process.valid() && ::poll(&end, 1, kFlushMilliseconds) == 0) {
    message::warning("a file system's server does not end: it is killed");
    ::kill(server.pid, SIGKILL);
  }
  ::waitpid(server.pid, nullptr, 0);
  server.pid = -1;
  return words_of(server.log.get());
}

}  // namespace postern::start
