#include "frontend/start/peer.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

namespace postern::start {
namespace {

// socket(7) of Linux 6.5: the process itself, not a number that another may have by now.
constexpr int kPeerPidfd = 77;

using Path = std::array<char, 40>;
using Begin = std::array<char, 1024>;  // of a file in /proc

Path path_of(pid_t pid, std::string_view name) noexcept {
  Path path = {};
  constexpr std::string_view kFolder = "/proc/";
  char* end = path.data() + kFolder.copy(path.data(), kFolder.size());
  end = std::to_chars(end, path.data() + path.size(), pid).ptr;
  name.copy(end, name.size());
  return path;
}

std::string_view begin_of(const char* path, Begin& begin) noexcept {
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t got = file.valid() ? ::read(file.get(), begin.data(), begin.size()) : 0;
  return {begin.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

// Its real user, by proc(5), status.
bool is_of(pid_t pid, uid_t uid) noexcept {
  Begin begin = {};
  const std::string_view text = begin_of(path_of(pid, "/status").data(), begin);
  constexpr std::string_view kKey = "\nUid:\t";
  const auto at = text.find(kKey);
  uid_t its = 0;
  return at != text.npos &&
         std::from_chars(text.data() + at + kKey.size(), text.data() + text.size(), its).ec ==
             std::errc{} &&
         its == uid;
}

// Before Linux 6.5 the process of that number may be a later one: of the same user at least, so
// that root signals nobody else's.
UniqueFd process_behind(int socket, pid_t pid, uid_t uid) noexcept {
  int fd = -1;
  socklen_t bytes = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, kPeerPidfd, &fd, &bytes) == 0) {
    return UniqueFd(fd);
  }
  if (errno != ENOPROTOOPT) {
    return {};  // it has ended
  }
  UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return is_of(pid, uid) ? std::move(process) : UniqueFd();
}

bool same_namespace(pid_t pid) noexcept {
  struct stat its = {};
  struct stat ours = {};
  return ::stat(path_of(pid, "/ns/mnt").data(), &its) == 0 &&
         ::stat("/proc/self/ns/mnt", &ours) == 0 && its.st_dev == ours.st_dev &&
         its.st_ino == ours.st_ino;
}

// The link above is not for everybody to see (namespaces(7): PTRACE_MODE_READ_FSCREDS), the table
// of mounts is. Its first number is that of a mount, which is in one namespace only.
bool same_first_mount(pid_t pid) noexcept {
  Begin its = {};
  Begin ours = {};
  const std::string_view theirs = begin_of(path_of(pid, "/mountinfo").data(), its);
  const auto space = theirs.find(' ');
  return space != theirs.npos &&
         begin_of("/proc/self/mountinfo", ours).starts_with(theirs.substr(0, space + 1));
}

}  // namespace

bool peer_of(int socket, Peer& peer) noexcept {
  ucred credentials = {};
  socklen_t bytes = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0 ||
      credentials.pid <= 0) {
    return false;
  }
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  peer.process = process_behind(socket, credentials.pid, credentials.uid);
  return peer.process.valid();
}

bool is_in_our_place(const Peer& peer) noexcept {
  // ORDER: alive after the look: it was this process that was looked at.
  return (same_namespace(peer.pid) || same_first_mount(peer.pid)) && !has_ended(peer);
}

bool has_ended(const Peer& peer) noexcept {
  pollfd end = {peer.process.get(), POLLIN, 0};
  return ::poll(&end, 1, 0) != 0;
}

}  // namespace postern::start
