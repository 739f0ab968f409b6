// What went wrong when a file was written, in words for a person.
#pragma once

#include <string>

#include "policy/problem.h"

namespace postern {

// system_problem() with the cure of a full or broken file system. `elsewhere` is how to write to
// another one ("choose another directory with --tmpdir"), and the cure for the rest.
Problem write_problem(std::string doing, int err, const std::string& elsewhere);

// Whether a file system, or the user's share of it, is full.
bool is_full(int err);

}  // namespace postern
