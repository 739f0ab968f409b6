// The bare sequence of system calls that starts a container, with nothing around it: the floor that
// the benchmark measures against. No policy, no environment rules, no messages; errors end it.
//
//   floor directory ROOT COMMAND...                 user and mount namespace, binds, pivot_root,
//   exec floor image SERVER FILE OFFSET SIZE COMMAND...  on a FUSE mount served by postern-squashfs
//   floor squashfuse SERVER FILE OFFSET COMMAND...  on a mount served by squashfuse_ll
//
// As root, for setuid mode: no user namespace, privilege dropped for ID (uid and gid) before exec.
//
//   floor root-directory ID ROOT COMMAND...
//   floor root-loop ID FILE OFFSET SIZE COMMAND...         kernel squashfs over a loop device
//   floor root-image ID SERVER FILE OFFSET SIZE COMMAND... as `image`
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <unistd.h>

namespace {

void need(bool ok, const char* what) {
  if (!ok) {
    std::perror(what);
    std::exit(1);
  }
}

void write_file(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  need(fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), path);
  ::close(fd);
}

// libfuse mounts without fusermount only where it appears as root.
void new_user_namespace(bool as_root) {
  const std::string uid = std::to_string(::getuid());
  const std::string gid = std::to_string(::getgid());
  need(::unshare(CLONE_NEWUSER) == 0, "unshare");
  write_file("/proc/self/setgroups", "deny");
  write_file("/proc/self/uid_map", (as_root ? "0" : uid) + " " + uid + " 1");
  write_file("/proc/self/gid_map", (as_root ? "0" : gid) + " " + gid + " 1");
}

// As whom the payload and the server run: the caller, or an id that root gives itself for good.
struct Owner {
  uid_t uid = ::getuid();
  gid_t gid = ::getgid();

  void become() const {
    if (::geteuid() != uid) {
      need(::setgroups(0, nullptr) == 0 && ::setresgid(gid, gid, gid) == 0 &&
               ::setresuid(uid, uid, uid) == 0,
           "setresuid");
    }
  }
};

void new_mount_namespace() {
  need(::unshare(CLONE_NEWNS) == 0, "unshare");
  // A user namespace gets its mounts as slaves; root's would show on the host.
  need(::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0, "mount propagation");
}

// A root with the five binds of every start, then in.
void enter(const char* root, const Owner& owner, char** command) {
  const std::string base = root;
  for (const char* path : {"/proc", "/sys", "/dev", "/tmp"}) {
    need(::mount(path, (base + path).c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0, path);
  }
  need(::chdir(root) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
           ::umount2(".", MNT_DETACH) == 0,
       "pivot_root");
  owner.become();
  need(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "prctl");
  ::execvp(command[0], command);
  need(false, command[0]);
}

void enter_directory(const char* directory, const Owner& owner, char** command) {
  need(::mount(directory, directory, nullptr, MS_BIND | MS_REC, nullptr) == 0, "bind");
  enter(directory, owner, command);
}

// argv: SERVER FILE OFFSET SIZE
void start_postern_squashfs(char** argv, const Owner& owner, const char* root) {
  const int fuse = ::open("/dev/fuse", O_RDWR);
  const int image = ::open(argv[1], O_RDONLY);
  need(fuse >= 0 && image >= 0, "open");
  const std::string ids = std::to_string(owner.uid) + ":" + std::to_string(owner.gid);
  if (::fork() == 0) {
    owner.become();
    const std::string fuse_fd = std::to_string(fuse);
    const std::string image_fd = std::to_string(image);
    ::execl(argv[0], "postern-squashfs", "--fuse-fd", fuse_fd.c_str(), "--image-fd",
            image_fd.c_str(), "--offset", argv[2], "--size", argv[3], "--owner", ids.c_str(),
            nullptr);
    need(false, argv[0]);
  }
  new_mount_namespace();
  const std::string options =
      "fd=" + std::to_string(fuse) + ",rootmode=40000,user_id=" + std::to_string(owner.uid) +
      ",group_id=" + std::to_string(owner.gid) + ",default_permissions,allow_other";
  need(::mount("floor", root, "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV, options.c_str()) == 0,
       "mount fuse");
  ::close(fuse);
  ::close(image);
}

// argv: FILE OFFSET SIZE. The device goes with the mount. Others may take the free number first.
void mount_loop(char** argv, const char* root) {
  loop_config config{};
  const int control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  const int image = ::open(argv[0], O_RDONLY | O_CLOEXEC);
  need(control >= 0 && image >= 0, "open");
  config.fd = static_cast<unsigned>(image);
  config.info.lo_offset = std::strtoull(argv[1], nullptr, 10);
  config.info.lo_sizelimit = std::strtoull(argv[2], nullptr, 10);
  config.info.lo_flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
  std::string path;
  int device = -1;
  for (int attempt = 0; attempt < 64; ++attempt) {
    path = "/dev/loop" + std::to_string(::ioctl(control, LOOP_CTL_GET_FREE));
    device = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (device >= 0 && ::ioctl(device, LOOP_CONFIGURE, &config) == 0) {
      break;
    }
  }
  new_mount_namespace();
  need(::mount(path.c_str(), root, "squashfs", MS_RDONLY | MS_NOSUID | MS_NODEV, nullptr) == 0,
       path.c_str());
  ::close(device);
}

void start_squashfuse(char** argv, const char* root) {
  new_mount_namespace();
  struct stat before{};
  struct stat now{};
  need(::stat(root, &before) == 0, root);
  if (::fork() == 0) {
    // It lives in the namespace that it mounts in, so the mount would never end by itself.
    need(::prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "prctl");
    const std::string offset = std::string("offset=") + argv[4];
    ::execl(argv[2], "squashfuse_ll", "-f", "-o", offset.c_str(), argv[3], root, nullptr);
    need(false, argv[2]);
  }
  do {
    ::usleep(100);
    need(::stat(root, &now) == 0, root);
  } while (now.st_dev == before.st_dev);
}

// Never returns.
void start(const std::string& kind, int argc, char** argv, const char* root) {
  const Owner caller;
  if (kind == "image" && argc > 6) {
    new_user_namespace(false);
    start_postern_squashfs(argv + 2, caller, root);
    enter(root, caller, argv + 6);
  }
  if (kind == "squashfuse" && argc > 5) {
    new_user_namespace(true);
    start_squashfuse(argv, root);
    enter(root, Owner{}, argv + 5);
  }
  const auto id = static_cast<uid_t>(argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 0);
  if (kind == "root-image" && argc > 7) {
    start_postern_squashfs(argv + 3, {id, id}, root);
    enter(root, {id, id}, argv + 7);
  }
  if (kind == "root-loop" && argc > 6) {
    mount_loop(argv + 3, root);
    enter(root, {id, id}, argv + 6);
  }
  std::fputs("floor: bad arguments\n", stderr);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string kind = argc > 3 ? argv[1] : "";
  if (kind == "directory") {
    new_user_namespace(false);
    new_mount_namespace();
    enter_directory(argv[2], Owner{}, argv + 3);
  }
  if (kind == "root-directory" && argc > 4) {
    const auto id = static_cast<uid_t>(std::strtoul(argv[2], nullptr, 10));
    new_mount_namespace();
    enter_directory(argv[3], {id, id}, argv + 4);
  }
  // An empty directory to mount on; the name goes when the run is over.
  char root[] = "/var/tmp/postern-floor.XXXXXX";
  need(::mkdtemp(root) != nullptr, "mkdtemp");
  int status = 1;
  const pid_t child = ::fork();
  if (child == 0) {
    start(kind, argc, argv, root);
  }
  ::waitpid(child, &status, 0);
  ::rmdir(root);
  return status == 0 ? 0 : 1;
}
