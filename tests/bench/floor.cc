// The bare sequence of system calls that starts a container, with nothing around it: the floor that
// the benchmark measures against. No policy, no environment rules, no messages; errors end it.
//
//   floor directory ROOT COMMAND...             user and mount namespace, binds, pivot_root, exec
//   floor image SERVER FILE OFFSET SIZE COMMAND...  the same on a FUSE mount served by
//   postern-squashfs floor squashfuse SERVER FILE OFFSET COMMAND...  the same on a mount served by
//   squashfuse_ll
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
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

// A root with the five binds of every start, then in.
void enter(const char* root, char** command) {
  const std::string base = root;
  for (const char* path : {"/proc", "/sys", "/dev", "/tmp"}) {
    need(::mount(path, (base + path).c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0, path);
  }
  need(::chdir(root) == 0 && ::syscall(SYS_pivot_root, ".", ".") == 0 &&
           ::umount2(".", MNT_DETACH) == 0,
       "pivot_root");
  ::execvp(command[0], command);
  need(false, command[0]);
}

void start_postern_squashfs(char** argv, const char* root) {
  const int fuse = ::open("/dev/fuse", O_RDWR);
  const int image = ::open(argv[3], O_RDONLY);
  need(fuse >= 0 && image >= 0, "open");
  if (::fork() == 0) {
    const std::string fuse_fd = std::to_string(fuse);
    const std::string image_fd = std::to_string(image);
    const std::string owner = std::to_string(::getuid()) + ":" + std::to_string(::getgid());
    ::execl(argv[2], "postern-squashfs", "--fuse-fd", fuse_fd.c_str(), "--image-fd",
            image_fd.c_str(), "--offset", argv[4], "--size", argv[5], "--owner", owner.c_str(),
            nullptr);
    need(false, argv[2]);
  }
  need(::unshare(CLONE_NEWNS) == 0, "unshare");
  const std::string options =
      "fd=" + std::to_string(fuse) + ",rootmode=40000,user_id=" + std::to_string(::getuid()) +
      ",group_id=" + std::to_string(::getgid()) + ",default_permissions,allow_other";
  need(::mount("floor", root, "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV, options.c_str()) == 0,
       "mount fuse");
  ::close(fuse);
  ::close(image);
}

void start_squashfuse(char** argv, const char* root) {
  need(::unshare(CLONE_NEWNS) == 0, "unshare");
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

}  // namespace

int main(int argc, char** argv) {
  const std::string kind = argc > 3 ? argv[1] : "";
  if (kind == "directory") {
    new_user_namespace(false);
    need(::unshare(CLONE_NEWNS) == 0, "unshare");
    need(::mount(argv[2], argv[2], nullptr, MS_BIND | MS_REC, nullptr) == 0, "bind");
    enter(argv[2], argv + 3);
  }
  // An empty directory to mount on; the name goes when the run is over.
  char root[] = "/var/tmp/postern-floor.XXXXXX";
  need(::mkdtemp(root) != nullptr, "mkdtemp");
  const int status = [&] {
    const pid_t child = ::fork();
    if (child == 0) {
      new_user_namespace(kind == "squashfuse");
      if (kind == "image" && argc > 6) {
        start_postern_squashfs(argv, root);
        enter(root, argv + 6);
      } else if (kind == "squashfuse" && argc > 5) {
        start_squashfuse(argv, root);
        enter(root, argv + 5);
      }
      std::fputs("floor: bad arguments\n", stderr);
      std::exit(2);
    }
    int result = 1;
    ::waitpid(child, &result, 0);
    return result;
  }();
  ::rmdir(root);
  return status == 0 ? 0 : 1;
}
