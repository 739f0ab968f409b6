#include "protocol/channel.h"

#include <cstring>

#include <sys/socket.h>
#include <sys/uio.h>

namespace postern {

namespace {

// Takes ownership of whatever arrived before anything is judged, so that an error leaks nothing.
bool adopt(msghdr& message, Received& out) noexcept {
  bool expected = true;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    const bool rights = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS;
    expected = expected && rights;
    const std::size_t count = rights ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    for (std::size_t i = 0; i < count && out.descriptors < out.fds.size(); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      out.fds[out.descriptors++].reset(fd);
    }
  }
  return expected;
}

}  // namespace

Result<> receive_datagram(int socket, std::span<std::byte> buffer, Received& out) noexcept {
  // Room for exactly as many descriptors as we accept: a peer that sends more sets MSG_CTRUNC
  // (recvmsg(2)), so the list is never silently shortened.
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxDescriptors)> control;
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message{.msg_iov = &part, .msg_iovlen = 1};
  message.msg_control = control.data();
  message.msg_controllen = control.size();

  // The helper has no signal handler, so EINTR needs no loop there; others may call again.
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) return Error{.err = errno, .op = Op::kStart};
  Received received;
  const bool expected = adopt(message, received);
  const bool cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  if (cut || !expected || got == 0)
    return Error{.err = cut ? EMSGSIZE : !expected ? EPROTO : ENODATA, .op = Op::kStart};
  received.bytes = static_cast<std::size_t>(got);
  out = std::move(received);
  return Ok{};
}

}  // namespace postern
