// `postern sif`: look into SIF files and change them.
#pragma once

#include <span>
#include <string>

namespace postern::sif {

// `args` is what stood after `sif` on the command line: the sub-command first. Prints results to
// standard output and problems to standard error. Returns the exit status: 0, or 1 for any error
// (Apptainer's for these commands).
int sif_command(std::span<const std::string> args);

}  // namespace postern::sif
