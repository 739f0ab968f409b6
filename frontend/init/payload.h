// From the environment that the image's scripts left to the payload's own program.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontend/init/record.h"
#include "frontend/shell/shell.h"

namespace postern::init {

using shell::Environment;

inline constexpr std::string_view kDefaultPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
inline constexpr std::string_view kLibraries = "/.singularity.d/libs";
inline constexpr std::string_view kLibraries32 = "/.singularity.d/libs32";

// What scripts start with: the runtime's own variables and the default PATH.
Environment base_environment(const LaunchRecord& record);

// Adds what the image's scripts left room for: the runtime's read-only variables again, the host's
// variables that the scripts did not set (one that they set to nothing ends up unset).
void restore_host(Environment& environment, const LaunchRecord& record);

// Applies record.forwarded, evaluated as between double quotes. False: the reach did not suffice. A
// value that is malformed is taken as it stands.
bool apply_forwarded(Environment& environment, const LaunchRecord& record, shell::Reach reach);

// PATH and LD_LIBRARY_PATH, as the last thing before the payload.
void finish_search_paths(Environment& environment, const LaunchRecord& record);

// Executes what record.action says. Returns only on failure or where there is nothing to do (no
// %test in the image): the exit status, the message having been printed.
int run_payload(const LaunchRecord& record, Environment& environment);

// execve(2) of argv[0], looked up in the environment's PATH if it has no slash; a file that the
// kernel does not know (ENOEXEC) is given to /bin/sh. Returns the exit status on failure.
int execute(std::vector<std::string> argv, const Environment& environment);

}  // namespace postern::init
