// Programs that run inside a container while an image is built: %post, %test.
#pragma once

#include <string>
#include <vector>

#include "policy/problem.h"

namespace postern::imagebuild {

// `postern ACTION OPTIONS… IMAGE ARGUMENTS…`; waits. Error: it could not be started, or its status,
// called `what` ("%post").
Outcome<> run_postern(const std::vector<std::string>& arguments, const std::string& what);

// A program of libexec with these arguments; waits. `inherited` stays open in it.
Outcome<> run_program(const std::string& program,
                      const std::vector<std::string>& arguments,
                      int inherited,
                      const std::string& what);

// A program of this host that fills the root file system at `root`, for a caller who is root of a
// user namespace: with the host's /proc and usual devices in `root` while it runs, and with those
// calls imitated that such a namespace cannot carry out (plan/fakeroot.h). For root of the host:
// run_program.
Outcome<> run_with_imitation(const std::string& program,
                             const std::vector<std::string>& arguments,
                             const std::string& root,
                             const std::string& what);

}  // namespace postern::imagebuild
