#include <cstring>

#include <sys/socket.h>
#include <sys/uio.h>

#include "protocol/channel.h"

namespace postern {

Result<> send_datagram(int socket, std::span<const std::byte> bytes, std::span<const int> fds) noexcept {
  if (fds.size() > kMaxDescriptors) {
    return Error{.err = EMSGSIZE, .op = Op::kStart};
  }

  struct alignas(cmsghdr) Control {
    std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxDescriptors)> bytes;
  } control;

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
    return Error{.err = sent < 0 ? errno : EMSGSIZE, .op = Op::kStart};
  }
  return Ok{};
}

}  // namespace postern
