// What the frontend gives to postern-init in setuid mode, once the payload's process exists, and
// to the agent of an instance in both modes (agent.h): a launch record, and the descriptors that
// the caller's program had open when it started postern.
//
// Who hands whom what: the request's "record" descriptor is one end of a socket pair of the
// caller's. The helper passes it on unread, as it always did with the record; the judge, which sees
// every descriptor of the request, is gone before anything is sent. The sender is the caller's own
// process, the receiver one with the caller's ids and without privilege: nobody gets what it could
// not have opened or been given by itself, and root never holds one of these descriptors.
#pragma once

#include <span>

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern::init {

// Sends `record` and `inherited`, with their numbers, over a SOCK_SEQPACKET socket. Descriptors 0,
// 1 and 2 may be among them where the receiver does not have the sender's.
Result<> hand_over(int socket, int record, std::span<const int> inherited) noexcept;

// Receives them: each inherited descriptor is put under its own number. Closes `socket`. Returns
// the record, close-on-exec.
Result<UniqueFd> take_over(UniqueFd socket);

// The same, 0, 1 and 2 included, for a socket that goes on to be used: it moves out of the way.
Result<UniqueFd> take_over_all(UniqueFd& socket);

}  // namespace postern::init
