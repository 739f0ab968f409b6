#include "protocol/channel.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>

namespace postern {

namespace {

// Room for exactly as many descriptors as we accept: a peer that sends more sets MSG_CTRUNC
// (recvmsg(2)), so the list is never silently shortened.
constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(int) * kMaxDescriptors);

struct alignas(cmsghdr) Control {
  std::array<std::byte, kControlBytes> bytes;
};

// Takes ownership of whatever arrived before anything is judged, so that an error leaks nothing.
bool adopt(msghdr& message, Received& out) noexcept {
  bool expected = true;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
      expected = false;
      continue;
    }
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
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
  Control control;
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = control.bytes.size();

  ssize_t got = -1;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    return Error{.err = errno, .op = Op::kReceive};
  }
  Received received;
  const bool expected = adopt(message, received);
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return Error{.err = EMSGSIZE, .op = Op::kReceive};
  }
  if (!expected) {
    return Error{.err = EPROTO, .op = Op::kReceive};
  }
  if (got == 0) {
    return Error{.err = ENODATA, .op = Op::kReceive};
  }
  received.bytes = static_cast<std::size_t>(got);
  out = std::move(received);
  return Ok{};
}

Result<> send_datagram(int socket, std::span<const std::byte> bytes, std::span<const int> fds) noexcept {
  if (fds.size() > kMaxDescriptors) {
    return Error{.err = EMSGSIZE, .op = Op::kReply};
  }
  Control control;
  // SAFETY: sendmsg(2) only reads through iov_base.
  iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 || static_cast<std::size_t>(sent) != bytes.size()) {
    return Error{.err = sent < 0 ? errno : EMSGSIZE, .op = Op::kReply};
  }
  return Ok{};
}

}  // namespace postern
