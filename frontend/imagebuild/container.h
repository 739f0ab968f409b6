// Programs that run inside a container while an image is built: %post, %test.
#pragma once

#include <string>
#include <vector>

#include "frontend/imagebuild/directory_source.h"
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

// How files that root of a --fakeroot container made look on this host, and so what they are in the
// image: the caller's ids are root's, the ids of /etc/subuid and /etc/subgid follow from 1 on.
// Empty for root.
OwnerMap fakeroot_owners();

}  // namespace postern::imagebuild
