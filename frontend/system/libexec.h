// Where the programs lie that only postern starts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::system {

// The path of `name` ("postern-init"): in the directories of POSTERN_LIBEXEC (separated by colons;
// for build trees), in ../libexec/postern beside the running program, or in the installed place;
// the last of these where it is in none.
std::string libexec_program(std::string_view name);

// The same, and nothing if it is nowhere.
std::optional<std::string> find_libexec_program(std::string_view name);

// Opens `name` there to be executed, or the program at `path` if that is not empty.
Outcome<UniqueFd> open_libexec_program(std::string_view name, std::string path);

// Why a program of ours could not be started or opened: `doing` ("starting") and errno.
Problem program_problem(const std::string& doing, const std::string& path, int err);

}  // namespace postern::system
