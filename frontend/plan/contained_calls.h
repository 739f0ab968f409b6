// System calls that --contain takes from the payload.
#pragma once

#include <cstdint>
#include <vector>

#include "policy/problem.h"

namespace postern::plan {

// A seccomp(2) program (struct sock_filter[]) against what no namespace divides between the
// processes of one user:
// - key rings (keyrings(7)): add_key(2), request_key(2) and keyctl(2) say ENOSYS. What the kernel
//   itself looks up in the session's ring, as network file systems do, stays.
// - a terminal's input: ioctl(2) TIOCSTI and TIOCLINUX (ioctl_tty(2), ioctl_console(2)) say EPERM.
//   What they type, the shell that started the container would execute.
Outcome<std::vector<std::uint8_t>> contained_calls_filter();

}  // namespace postern::plan
