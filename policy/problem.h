// Problem: what went wrong, in words for a person. The error type of everything that is not the
// helper (which has numbers only: protocol/base/result.h).
#pragma once

#include <string>
#include <utility>

#include "protocol/base/result.h"

namespace postern {

// `what` is one line without a full stop: which item, what was wrong with it. `cure` (may be
// empty) says how to mend it. `exit_code` is what the program ends with (protocol/exit_codes.h).
struct Problem {
  std::string what;
  std::string cure = {};
  int exit_code = 255;
};

template <class T = Ok>
using Outcome = Result<T, Problem>;

// "opening image: No such file or directory": `doing` and strerror(err).
Problem system_problem(std::string doing, int err, std::string cure = {});

// The same for a path that the user named. `cure` is for one that does not exist
// (path_resolution(7): ENOENT, ENOTDIR); one that the user may not reach has its own.
Problem path_problem(std::string doing, int err, std::string cure);

}  // namespace postern
