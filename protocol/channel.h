// The channel from the frontend to the helper: SOCK_SEQPACKET datagrams (unix(7), SCM_RIGHTS).
#pragma once

#include <span>

#include "protocol/base/result.h"
#include "protocol/limits.h"

namespace postern {

// Sends what a start sends: the request (a memfd), then the descriptors that it names, at most
// kMaxDescriptors, in as many datagrams as that takes; the byte in each says whether another
// follows. Never raises SIGPIPE. Waits while the user has more descriptors on their way than
// RLIMIT_NOFILE lets one have (ETOOMANYREFS): other starts take theirs.
// Error: EMSGSIZE, or what sendmsg(2) says.
Result<> send_request(int socket, int request, std::span<const int> descriptors) noexcept;

}  // namespace postern
