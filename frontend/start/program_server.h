// File systems of --fusemount: a FUSE program that the user named serves each, on the host and with
// no more rights than the user's own. It gets /dev/fuse as a descriptor, mounted already, and
// "/dev/fd/N" in the place of a mount point (fuse(8); libfuse 3.3). So it needs no namespace, no
// fusermount, and no privilege.
#pragma once

#include "frontend/start/image_server.h"
#include "policy/problem.h"

namespace postern::start {

// Returns when the program serves. Ended by end_foreign_server().
Outcome<Server> start_program_server(const plan::ImageServer& image, const ServerOptions& options);

}  // namespace postern::start
