// One datagram with descriptors (unix(7), SCM_RIGHTS), between processes of one start.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>

#include <sys/socket.h>
#include <sys/uio.h>

#include <time.h>

#include "protocol/base/unique_fd.h"

namespace postern::system {

inline constexpr std::size_t kMostPassed = 16;

// Returns 0 or errno. Never raises SIGPIPE. ETOOMANYREFS is waited for: as many descriptors of this
// user are under way as a process may have; those before this one take theirs.
inline int send_message(int socket,
                        std::span<const char> bytes,
                        std::span<const int> descriptors,
                        int flags = 0) noexcept {
  constexpr timespec kPause{0, 1'000'000};
  constexpr int kMostTries = 100;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostPassed * sizeof(int))> control = {};
  if (descriptors.size() > kMostPassed) {
    return EMSGSIZE;
  }
  // SAFETY: sendmsg(2) only reads what an iovec points at; the type has no const.
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  for (int tries = 0; ::sendmsg(socket, &message, MSG_NOSIGNAL | flags) < 0; ++tries) {
    if (errno != EINTR && (errno != ETOOMANYREFS || tries == kMostTries)) {
      return errno;
    }
    ::nanosleep(&kPause, nullptr);
  }
  return 0;
}

// What has come. `count` descriptors are valid; more than there is room for is EMSGSIZE.
struct Received {
  std::size_t bytes = 0;
  std::size_t count = 0;
  std::array<UniqueFd, kMostPassed> descriptors;
};

// Returns 0 or errno; ENODATA: the other end is closed.
inline int receive_message(int socket, std::span<char> room, Received& out) noexcept {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostPassed * sizeof(int))> control = {};
  iovec data{room.data(), room.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got <= 0) {
    return got == 0 ? ENODATA : errno;
  }
  out.bytes = static_cast<std::size_t>(got);
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    std::array<int, kMostPassed> numbers = {};
    out.count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    std::memcpy(numbers.data(), CMSG_DATA(header), out.count * sizeof(int));
    for (std::size_t i = 0; i < out.count; ++i) {
      out.descriptors[i].reset(numbers[i]);
    }
  }
  return (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 ? 0 : EMSGSIZE;
}

}  // namespace postern::system
