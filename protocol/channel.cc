#include "protocol/channel.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include <sys/socket.h>
#include <sys/uio.h>

#include <time.h>

namespace postern {
namespace {

constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 2'000'000};
constexpr int kMostPauses = 5000;  // ten seconds

// One datagram.
Result<> send_rights(int socket, bool is_last, std::span<const int> descriptors) noexcept {
  struct alignas(cmsghdr) Control {
    std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxRights)> bytes;
  } control;

  char byte = is_last ? 0 : 1;
  iovec part{.iov_base = &byte, .iov_len = 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes.data();
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(c), descriptors.data(), descriptors.size_bytes());
  for (int pauses = 0;;) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent == 1) {
      return Ok{};
    }
    if (sent < 0 && errno == ETOOMANYREFS && pauses++ < kMostPauses) {
      ::nanosleep(&kPause, nullptr);
    } else if (sent >= 0 || errno != EINTR) {
      return Error{.err = errno, .op = Op::kStart};
    }
  }
}

}  // namespace

Result<> send_request(int socket, int request, std::span<const int> descriptors) noexcept {
  if (descriptors.size() > kMaxDescriptors) {
    return Error{.err = EMSGSIZE, .op = Op::kStart};
  }
  std::array<int, 1 + kMaxDescriptors> all{request};
  std::copy(descriptors.begin(), descriptors.end(), all.begin() + 1);
  for (std::span<const int> left = std::span(all).first(1 + descriptors.size()); !left.empty();) {
    const std::size_t count = std::min(left.size(), kMaxRights);
    POSTERN_TRY(send_rights(socket, count == left.size(), left.first(count)));
    left = left.subspan(count);
  }
  return Ok{};
}

}  // namespace postern
