// The channel from the frontend to the helper: one SOCK_SEQPACKET datagram (unix(7), SCM_RIGHTS).
#pragma once

#include <span>

#include "protocol/base/result.h"
#include "protocol/limits.h"

namespace postern {

// Sends the one datagram of a start: a byte, and with it the request (a memfd) and then the
// descriptors that it names, at most kMaxDescriptors. Never raises SIGPIPE.
// Error: EMSGSIZE, or what sendmsg(2) says.
Result<> send_request(int socket, int request, std::span<const int> descriptors) noexcept;

}  // namespace postern
