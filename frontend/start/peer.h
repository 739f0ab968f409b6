// The process at the other end of a socket in a directory of the user's. Nobody is believed for the
// name of the socket: a container that was given the directory can take its place.
#pragma once

#include <sys/types.h>

#include "protocol/base/unique_fd.h"

namespace postern::start {

struct Peer {
  pid_t pid = -1;
  uid_t uid = 0;
  UniqueFd process;  // pidfd_open(2): the same process as long as it lives
};

// Who called listen(2) or connect(2) there (unix(7), SO_PEERCRED). False: it is gone, or cannot be
// told.
bool peer_of(int socket, Peer& peer) noexcept;

// Whether the process is in the mount namespace of this one, so in no container, and still lives.
// The kernel says it: what a process shows of itself may be borrowed. False as well if /proc hides
// the process (proc(5), hidepid).
bool is_in_our_place(const Peer& peer) noexcept;

bool has_ended(const Peer& peer) noexcept;

}  // namespace postern::start
