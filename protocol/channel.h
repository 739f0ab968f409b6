// The channel: one SOCK_SEQPACKET datagram with descriptors (unix(7), SCM_RIGHTS).
// Allocates nothing, throws nothing: the helper links it.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"
#include "protocol/limits.h"

namespace postern {

struct Received {
  std::size_t bytes = 0;
  std::size_t descriptors = 0;
  std::array<UniqueFd, kMaxDescriptors> fds;
};

// Receives one datagram into `buffer` and up to kMaxDescriptors descriptors, all close-on-exec.
// EMSGSIZE: datagram or control data were truncated; EPROTO: an unexpected control message;
// ENODATA: the peer is gone. Whatever had arrived is closed.
Result<> receive_datagram(int socket, std::span<std::byte> buffer, Received& out) noexcept;

// Sends one datagram; never raises SIGPIPE.
Result<> send_datagram(int socket, std::span<const std::byte> bytes, std::span<const int> fds) noexcept;

}  // namespace postern
