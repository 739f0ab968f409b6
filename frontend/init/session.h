// One process that has joined an instance, and who started it, at the other end of a socket.
#pragma once

#include <optional>

#include "frontend/init/record.h"
#include "protocol/base/unique_fd.h"

namespace postern::init {

// In a child of the agent that is for this alone. Receives the record and the descriptors
// (handover.h), forks, passes signals on, says how the process ended, and kills it if the other end
// goes away. Returns in the new process, with its record.
LaunchRecord serve_session(UniqueFd socket, const LaunchRecord& instance);

// Where a new terminal of the process is: descriptor `fd` becomes the controlling terminal of its
// own new session.
void control_terminal(int fd) noexcept;

}  // namespace postern::init
