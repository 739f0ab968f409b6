// `postern doctor`: what this host offers, what it does not, and the cure.
#pragma once

#include <span>
#include <string>

namespace postern::doctor {

// `args` is what stood after `doctor`: --json or nothing. Prints one line a check to standard
// output. Returns 0 when a container from an image can run here as the caller, 1 when not or for
// wrong usage.
int doctor_command(std::span<const std::string> args);

}  // namespace postern::doctor
