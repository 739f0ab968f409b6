#include "protocol/channel.h"

#include <array>
#include <cstddef>
#include <cstring>

#include <sys/socket.h>
#include <sys/uio.h>

namespace postern {

Result<> send_request(int socket, int request, std::span<const int> descriptors) noexcept {
  if (descriptors.size() > kMaxDescriptors) {
    return Error{.err = EMSGSIZE, .op = Op::kStart};
  }

  struct alignas(cmsghdr) Control {
    std::array<std::byte, CMSG_SPACE(sizeof(int) * (1 + kMaxDescriptors))> bytes;
  } control;

  const std::size_t bytes = sizeof request + descriptors.size_bytes();

  char byte = 0;
  iovec part{.iov_base = &byte, .iov_len = 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = CMSG_SPACE(bytes);
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(bytes);
  std::memcpy(CMSG_DATA(c), &request, sizeof request);
  if (!descriptors.empty()) {
    std::memcpy(CMSG_DATA(c) + sizeof request, descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == 1 ? Result<>(Ok{}) : Error{.err = errno, .op = Op::kStart};
}

}  // namespace postern
