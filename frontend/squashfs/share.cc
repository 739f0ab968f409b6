#include "frontend/squashfs/share.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include <sys/socket.h>
#include <sys/uio.h>

#include <time.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::squashfs {
namespace {

constexpr timespec kPause{0, 1'000'000};
constexpr int kMostTries = 100;

bool same_user(int peer, uid_t uid) noexcept {
  ucred who{};
  socklen_t size = sizeof who;
  return ::getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.uid == uid;
}

void send(int peer, std::span<const int> descriptors) noexcept {
  char ready = 'R';
  iovec data{&ready, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  // A peer that does not read, or has gone, is its own problem. ETOOMANYREFS: as many descriptors
  // of this user are under way as a process may have (unix(7)); those before this one take theirs.
  for (int tries = 0; tries < kMostTries; ++tries) {
    if (::sendmsg(peer, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || errno != ETOOMANYREFS) {
      return;
    }
    ::nanosleep(&kPause, nullptr);
  }
}

// Two messages: the mount is for the process that makes it, what is said about the image for the
// one that waits for the payload.
void hand_over(int peer, int fuse, int user_namespace) noexcept {
  const std::array mount = {fuse, user_namespace};
  send(peer, std::span(mount).first(user_namespace >= 0 ? 2 : 1));
  constexpr std::array kLog = {STDERR_FILENO};
  send(peer, kLog);
}

}  // namespace

void share_mount(int listening, int fuse, int user_namespace, uid_t uid) noexcept {
  for (;;) {
    const UniqueFd peer(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC));
    if (!peer.valid()) {
      if (errno == EINVAL || errno == EBADF) {  // shut down
        return;
      }
      if (errno != EINTR && errno != ECONNABORTED) {  // out of descriptors or memory: for now
        ::nanosleep(&kPause, nullptr);
      }
      continue;
    }
    if (same_user(peer.get(), uid)) {
      hand_over(peer.get(), fuse, user_namespace);
    }
  }
}

}  // namespace postern::squashfs
