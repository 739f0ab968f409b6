#include "frontend/instance/contact.h"

#include <array>
#include <charconv>
#include <string_view>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <poll.h>
#include <unistd.h>

namespace postern::instance {
namespace {

// socket(7) of Linux 6.5: the process itself, not a number that another may have by now.
constexpr int kPeerPidfd = 77;

UniqueFd process_behind(int socket, pid_t pid) noexcept {
  int fd = -1;
  socklen_t bytes = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, kPeerPidfd, &fd, &bytes) == 0) {
    return UniqueFd(fd);
  }
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool same_mounts(pid_t pid) noexcept {
  std::array<char, 32> path = {};
  const std::string_view begin = "/proc/";
  begin.copy(path.data(), begin.size());
  char* const end = std::to_chars(path.data() + begin.size(), path.data() + 20, pid).ptr;
  constexpr std::string_view kRest = "/ns/mnt";
  kRest.copy(end, kRest.size());
  struct stat its = {};
  struct stat ours = {};
  return ::stat(path.data(), &its) == 0 && ::stat("/proc/self/ns/mnt", &ours) == 0 &&
         its.st_dev == ours.st_dev && its.st_ino == ours.st_ino;
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
  peer.process = process_behind(socket, credentials.pid);
  return peer.process.valid();
}

bool is_in_our_place(const Peer& peer) noexcept {
  // ORDER: alive after the look: it was this process that was looked at.
  return same_mounts(peer.pid) && !has_ended(peer);
}

bool has_ended(const Peer& peer) noexcept {
  pollfd end = {peer.process.get(), POLLIN, 0};
  return ::poll(&end, 1, 0) != 0;
}

std::string encode(const Description& description) {
  std::string bytes = std::to_string(description.pid);
  for (const std::string* const text : {&description.image, &description.out, &description.err}) {
    bytes += '\0';
    bytes += *text;
  }
  return bytes;
}

bool decode(const std::string& bytes, Description& description) {
  std::array<std::string_view, 4> fields;
  std::string_view rest = bytes;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const std::size_t end = rest.find('\0');
    if ((end == rest.npos) != (i + 1 == fields.size())) {
      return false;
    }
    fields[i] = rest.substr(0, end);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  }
  const char* const last = fields[0].data() + fields[0].size();
  const auto [end, error] = std::from_chars(fields[0].data(), last, description.pid);
  description.image = fields[1];
  description.out = fields[2];
  description.err = fields[3];
  return error == std::errc{} && end == last && description.pid > 0;
}

}  // namespace postern::instance
