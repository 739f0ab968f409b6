// Joins a mount that a running postern-squashfs shares: takes its /dev/fuse descriptor, enters the
// server's user namespace, and mounts the descriptor again in a mount namespace of its own.
//
//   fuse_joiner [-f] SOCKETNAME MOUNTPOINT COMMAND…
//
// Exits as the command does; 111 where nobody listens or the connection ended without a word, 112
// where the mount is gone (ENOTCONN), 121 for another failed step. -f: mount by fsopen(2), not
// mount(2).
#include <array>
#include <string>

#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

constexpr int kNobody = 111;
constexpr int kGone = 112;
constexpr int kFailed = 121;

[[noreturn]] void fail(const char* step, int status = kFailed) {
  perror(step);
  ::exit(status);
}

int connect_to(const char* name) {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ::strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + ::strlen(name));
  // SAFETY: connect(2) takes every address as a sockaddr.
  if (fd < 0 || ::connect(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) {
    fail("connect", kNobody);
  }
  return fd;
}

// /dev/fuse, and the user namespace of its mount.
std::array<int, 2> receive_descriptors(int socket) {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || byte != 'R') {
    fail("recvmsg", kNobody);
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  std::array<int, 2> fds = {-1, -1};
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof fds)) {
    fail("no descriptors", kNobody);
  }
  ::memcpy(fds.data(), CMSG_DATA(header), sizeof fds);
  return fds;
}

int mount_again(const char* target,
                const std::string& fd,
                const std::string& uid,
                const std::string& gid) {
  const long context = ::syscall(SYS_fsopen, "fuse", 0);
  const int fs = static_cast<int>(context);
  const char* settings[][2] = {{"fd", fd.c_str()},
                               {"rootmode", "40000"},
                               {"user_id", uid.c_str()},
                               {"group_id", gid.c_str()}};
  if (fs < 0) {
    return -1;
  }
  for (const auto& setting : settings) {
    if (::syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, setting[0], setting[1], 0) != 0) {
      return -1;
    }
  }
  if (::syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return -1;
  }
  const long mount = ::syscall(SYS_fsmount, fs, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
  return mount < 0 ? -1
                   : static_cast<int>(::syscall(SYS_move_mount, mount, "", AT_FDCWD, target,
                                                MOVE_MOUNT_F_EMPTY_PATH));
}

}  // namespace

int main(int argc, char** argv) {
  const bool by_fsopen = argc > 1 && ::strcmp(argv[1], "-f") == 0;
  argv += by_fsopen ? 1 : 0;
  if (argc - (by_fsopen ? 1 : 0) < 4) {
    return kFailed;
  }
  const char* target = argv[2];
  const std::string uid = std::to_string(::getuid());
  const std::string gid = std::to_string(::getgid());
  const int socket = connect_to(argv[1]);
  ucred server{};
  socklen_t size = sizeof server;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &server, &size) != 0 ||
      server.uid != ::getuid()) {
    fail("SO_PEERCRED");
  }
  const auto [fuse, users] = receive_descriptors(socket);
  if (::setns(users, CLONE_NEWUSER) != 0 || ::unshare(CLONE_NEWNS) != 0) {
    fail("setns");
  }
  const std::string fd = std::to_string(fuse);
  const std::string data = "fd=" + fd + ",rootmode=40000,user_id=" + uid + ",group_id=" + gid;
  const int mounted = by_fsopen ? mount_again(target, fd, uid, gid)
                                : ::mount("postern", target, "fuse.postern",
                                          MS_NOSUID | MS_NODEV | MS_RDONLY, data.c_str());
  if (mounted != 0) {
    fail("mount", errno == ENOTCONN ? kGone : kFailed);
  }
  ::close(fuse);
  ::close(users);
  ::close(socket);
  if (::chdir(target) != 0) {
    fail("chdir");
  }
  ::execvp(argv[3], &argv[3]);
  fail(argv[3]);
}
