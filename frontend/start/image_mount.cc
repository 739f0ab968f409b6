#include "frontend/start/image_mount.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <string>
#include <vector>

#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/start/initramfs_cover.h"
#include "frontend/system/child_stack.h"
#include "frontend/system/descriptor_message.h"
#include "frontend/system/initramfs.h"
#include "protocol/base/mount_object.h"

namespace postern::start {
namespace {

enum class Doing : int { kNothing, kJoining, kMapping, kDevice, kMounting, kHandingOver };

// What the process says: whether all is well, and what the descriptors that come with it are.
struct Report {
  int err = 0;
  Doing doing = Doing::kNothing;
};

// As many as postern-squashfs has threads: enough to keep the processors and a disk busy.
std::size_t wanted_devices() noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int count = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : CPU_SETSIZE;
  return std::clamp(2 * static_cast<std::size_t>(std::max(1, count)), std::size_t{4}, kMostDevices);
}

struct MountSetup {
  Ids ids;
  plan::Fakeroot fakeroot = plan::Fakeroot::kNone;
  int user_namespace = -1;
  int channel = -1;
  std::size_t devices = 0;
  MountedBy server = MountedBy::kOurs;
  bool cover = false;  // what "/" is now, so that pivot_root(2) works
};

// As new_fuse_mount(), but that the program decides what may be done.
Result<UniqueFd> new_program_mount(int device) noexcept {
  return new_mount("fuse",
                   {{"source", "postern"},
                    {"fd", Text().add(static_cast<unsigned>(device)).text()},
                    {"rootmode", "40000"},
                    {"user_id", Text().add(::getuid()).text()},
                    {"group_id", Text().add(::getgid()).text()},
                    {"allow_other", nullptr}},
                   MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, Op::kMountRoot);
}

// Allocates nothing: it may share our memory.
class MountProcess {
 public:
  explicit MountProcess(const MountSetup& setup) noexcept : setup_(setup) {}

  [[noreturn]] void run() noexcept {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    enter_namespaces();
    if (setup_.cover) {
      const Result<> covered = cover_initramfs();
      errno = covered ? 0 : covered.error().err;
      check(errno == 0, Doing::kMounting);
    }
    ImageMount out;
    for (std::size_t i = 0; i < setup_.devices; ++i) {
      out.devices[i].reset(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
      if (!out.devices[i].valid() && i == 0) {
        fail(Doing::kDevice);
      }
    }
    out.user_namespace.reset(::open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
    out.mount_namespace.reset(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
    check(out.user_namespace.valid() && out.mount_namespace.valid(), Doing::kJoining);
    // allow_other lets in the processes of this user namespace, which are all the caller's; without
    // it fake root could not change its uid.
    Result<UniqueFd> mount = setup_.server == MountedBy::kOurs
                                 ? new_fuse_mount(out.devices[0].get(), true)
                                 : new_program_mount(out.devices[0].get());
    if (!mount) {
      errno = mount.error().err;
      fail(Doing::kMounting);
    }
    leave_host();
    // The root of the namespace is never looked up here: nobody serves it yet.
    check(::move_mount(mount->get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) == 0,
          Doing::kMounting);
    hand_over(out);
    ::_exit(0);
  }

 private:
  [[noreturn]] void fail(Doing doing) noexcept {
    const Report report = {.err = errno, .doing = doing};
    system::send_message(setup_.channel, {reinterpret_cast<const char*>(&report), sizeof report},
                         {});
    ::_exit(1);
  }

  void check(bool good, Doing doing) noexcept {
    if (!good) {
      fail(doing);
    }
  }

  void enter_namespaces() noexcept {
    if (setup_.user_namespace >= 0) {
      check(::setns(setup_.user_namespace, CLONE_NEWUSER) == 0, Doing::kJoining);
      check(::unshare(CLONE_NEWNS) == 0, Doing::kJoining);
      return;
    }
    // Where this process has memory of its own, its /proc files are root's until it is dumpable.
    // ORDER: a volume key is not among its descriptors by then.
    const auto channel = static_cast<unsigned>(setup_.channel);
    check((channel == 3 || ::close_range(3, channel - 1, 0) == 0) &&
              ::close_range(channel + 1, ~0U, 0) == 0,
          Doing::kMapping);
    ::prctl(PR_SET_DUMPABLE, 1);
    if (const int err = map_single_id(setup_.ids, setup_.fakeroot != plan::Fakeroot::kNone);
        err != 0) {
      errno = err;
      fail(Doing::kMapping);
    }
  }

  // A tmpfs becomes the root and everything of the host goes: what keeps this namespace must not
  // keep the host's mounts busy, and whoever enters it finds nothing but the image.
  void leave_host() noexcept {
    const Result<UniqueFd> empty =
        new_mount("tmpfs", {}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, Op::kSession);
    if (!empty) {
      errno = empty.error().err;
      fail(Doing::kMounting);
    }
    check(::move_mount(empty->get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) == 0 &&
              ::fchdir(empty->get()) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
              ::umount2(".", MNT_DETACH) == 0 && ::chdir("/") == 0,
          Doing::kMounting);
  }

  void hand_over(const ImageMount& out) noexcept {
    std::array<int, kMostDevices + 2> fds = {out.user_namespace.get(), out.mount_namespace.get()};
    std::size_t count = 2;
    for (const UniqueFd& device : out.devices) {
      if (device.valid()) {
        fds[count++] = device.get();
      }
    }
    const Report report;
    if (const int err = system::send_message(
            setup_.channel, {reinterpret_cast<const char*>(&report), sizeof report},
            std::span(fds).first(count));
        err != 0) {
      errno = err;
      fail(Doing::kHandingOver);
    }
  }

  const MountSetup& setup_;
};

Problem problem_of(const Report& report) {
  switch (report.doing) {
    case Doing::kNothing:
      break;
    case Doing::kJoining:
      return system_problem("entering the user namespace of the image", report.err,
                            user_namespace_cure(report.err));
    case Doing::kMapping:
      return system_problem("mapping ids in a user namespace", report.err,
                            user_namespace_cure(report.err));
    case Doing::kDevice:
      return device_problem(report.err);
    case Doing::kMounting:
      return system_problem("mounting the image in a user namespace", report.err,
                            report.err == ENODEV
                                ? "load the module (modprobe fuse), or run from a directory"
                                : user_namespace_cure(report.err));
    case Doing::kHandingOver:
      return system_problem("handing over the mount of the image", report.err);
  }
  return Problem{.what = "the process that mounts the image was killed", .cure = "try again"};
}

pid_t start(MountSetup& setup) noexcept {
  const system::ChildStack stack;
  // An undumpable process could not write the id maps of one that shares its memory.
  const bool shared = ::prctl(PR_GET_DUMPABLE) == 1;
  const int flags = (shared ? CLONE_VM | CLONE_VFORK : 0) | SIGCHLD |
                    (setup.user_namespace < 0 ? CLONE_NEWUSER | CLONE_NEWNS : 0);
  if (!stack.valid()) {
    return -1;
  }
  return ::clone(
      [](void* argument) -> int { MountProcess(*static_cast<const MountSetup*>(argument)).run(); },
      stack.top(), flags, &setup);
}

}  // namespace

Problem device_problem(int err) {
  return system_problem(
      "opening /dev/fuse", err,
      err == EACCES || err == EPERM
          ? "ask for /dev/fuse to be readable and writable by all (mode 0666)"
      : err == ENOENT
          ? "inside a container: start that one with --bind /dev/fuse; elsewhere load the module "
            "(modprobe fuse); or run from a directory: postern build --sandbox DIR IMAGE"
          : "load the module (modprobe fuse), or run from a directory: postern build --sandbox DIR "
            "IMAGE");
}

Outcome<ImageMount> mount_image(Ids ids,
                                plan::Fakeroot fakeroot,
                                int user_namespace,
                                MountedBy server) {
  std::array<int, 2> pair = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
    return system_problem("creating a socket pair", errno);
  }
  const UniqueFd channel(pair[0]);
  UniqueFd theirs(pair[1]);
  MountSetup setup = {.ids = ids,
                      .fakeroot = fakeroot,
                      .user_namespace = user_namespace,
                      .channel = theirs.get(),
                      .devices = server == MountedBy::kOurs ? wanted_devices() : 1,
                      .server = server,
                      .cover = system::has_initramfs_root()};
  const pid_t pid = start(setup);
  if (pid < 0) {
    const int err = errno;
    return system_problem("creating a user namespace", err, user_namespace_cure(err));
  }
  theirs.reset();
  Report report;
  system::Received got;
  const int err = system::receive_message(channel.get(),
                                          {reinterpret_cast<char*>(&report), sizeof report}, got);
  ::waitpid(pid, nullptr, 0);
  if (err == EMSGSIZE) {
    return system_problem("receiving the mount of the image", EMFILE);
  }
  if (err != 0 || report.err != 0 || got.count < 3) {
    return problem_of(err != 0 ? Report{} : report);
  }
  ImageMount out;
  out.user_namespace = std::move(got.descriptors[0]);
  out.mount_namespace = std::move(got.descriptors[1]);
  for (std::size_t i = 2; i < got.count; ++i) {
    out.devices[i - 2] = std::move(got.descriptors[i]);
  }
  return out;
}

Result<UniqueFd> clone_mount_of(int mount_namespace) noexcept {
  POSTERN_TRY_ASSIGN(const UniqueFd own_namespace,
                     own(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC), Op::kSpawn));
  POSTERN_TRY_ASSIGN(const UniqueFd root, own(::open("/", O_PATH | O_CLOEXEC), Op::kSpawn));
  POSTERN_TRY_ASSIGN(const UniqueFd directory, own(::open(".", O_PATH | O_CLOEXEC), Op::kSpawn));
  POSTERN_TRY(require(::setns(mount_namespace, CLONE_NEWNS) == 0, Op::kSpawn));
  // Not recursive: the image, and nothing that lies on it.
  Result<UniqueFd> mount =
      own(::open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), Op::kMountRoot);
  // setns(2) takes the root of the namespace; the caller's may be another (chroot(2)).
  POSTERN_TRY(require(::setns(own_namespace.get(), CLONE_NEWNS) == 0 && ::fchdir(root.get()) == 0 &&
                          ::chroot(".") == 0 && ::fchdir(directory.get()) == 0,
                      Op::kSpawn));
  return mount;
}

}  // namespace postern::start
