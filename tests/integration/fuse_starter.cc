// Mounts an image as a start does: a new user and mount namespace, /dev/fuse opened in it,
// postern-squashfs on the other end. Then runs a command there.
//
//   fuse_starter [-n] [-k KEYFILE] SERVER IMAGE OFFSET SIZE MOUNTPOINT [SERVER OPTIONS…] --
//   COMMAND…
//
// Exits as the command does; 120 where the server did not end well, 121 for a failed step. -n: do
// not unmount and do not wait for the server (it must notice by itself). -k: passes the file as
// --key-fd.
#include <string>
#include <vector>

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

[[noreturn]] void fail(const char* step) {
  perror(step);
  ::exit(121);
}

void write_file(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || ::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    fail(path);
  }
  ::close(fd);
}

void enter_user_namespace(uid_t uid, gid_t gid) {
  if (::unshare(CLONE_NEWUSER) != 0) {
    fail("unshare");
  }
  write_file("/proc/self/setgroups", "deny");
  write_file("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1");
  write_file("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1");
}

pid_t start_server(const char* program, std::vector<std::string> arguments) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::vector<char*> argv = {const_cast<char*>(program)};
    for (std::string& argument : arguments) {
      argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    ::execv(program, argv.data());
    fail(program);
  }
  return pid;
}

}  // namespace

int main(int argc, char** argv) {
  bool leave = false;
  const char* key = nullptr;
  int option = 0;
  while ((option = ::getopt(argc, argv, "+nk:")) != -1) {
    if (option == 'n') {
      leave = true;
    } else if (option == 'k') {
      key = optarg;
    } else {
      return 121;
    }
  }
  if (argc - optind < 7) {
    return 121;
  }
  const char* server = argv[optind];
  const char* target = argv[optind + 4];
  int command = optind + 5;
  const uid_t uid = ::getuid();
  const gid_t gid = ::getgid();
  const int image = ::open(argv[optind + 1], O_RDONLY);
  if (image < 0) {
    fail(argv[optind + 1]);
  }
  enter_user_namespace(uid, gid);
  const int fuse = ::open("/dev/fuse", O_RDWR);
  if (fuse < 0) {
    fail("/dev/fuse");
  }
  std::vector<std::string> arguments = {
      "--fuse-fd", std::to_string(fuse), "--image-fd", std::to_string(image),
      "--offset",  argv[optind + 2],     "--size",     argv[optind + 3]};
  for (; ::strcmp(argv[command], "--") != 0; ++command) {
    arguments.emplace_back(argv[command]);
  }
  if (key != nullptr) {
    const int fd = ::open(key, O_RDONLY);
    if (fd < 0) {
      fail(key);
    }
    arguments.insert(arguments.end(), {"--key-fd", std::to_string(fd)});
  }
  const pid_t pid = start_server(server, arguments);
  // ORDER: after the server is started: one that lived in the mount's namespace would keep it, and
  // with it the mount, alive for ever.
  if (::unshare(CLONE_NEWNS) != 0) {
    fail("unshare");
  }
  const std::string data = "fd=" + std::to_string(fuse) +
                           ",rootmode=40000,user_id=" + std::to_string(uid) +
                           ",group_id=" + std::to_string(gid) + ",default_permissions";
  if (::mount("postern", target, "fuse.postern", MS_NOSUID | MS_NODEV | MS_RDONLY, data.c_str()) !=
      0) {
    fail("mount");
  }
  ::close(fuse);
  ::close(image);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::chdir(target) != 0) {
      fail("chdir");
    }
    ::execvp(argv[command + 1], &argv[command + 1]);
    fail(argv[command + 1]);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const int result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (leave) {
    return result;
  }
  if (::umount2(target, 0) != 0) {
    fail("umount");
  }
  int ended = 0;
  ::waitpid(pid, &ended, 0);
  if (ended != 0) {
    fprintf(stderr, "the server ended with wait status %#x\n", static_cast<unsigned>(ended));
    return 120;
  }
  return result;
}
