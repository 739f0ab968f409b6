// The last steps between fork(2) and execve(2) of a program that serves a file system for a start.
#pragma once

#include <string>
#include <vector>

namespace postern::start {

// If not `good`: writes `doing` and errno's words to standard error, the program's log, and ends.
void check_child(bool good, const std::string& doing);

// Executes `program` with `words`. libfuse takes only signals that are not ignored, and ends,
// whole, on these.
[[noreturn]] void execute_server(const std::string& program, std::vector<std::string> words);

}  // namespace postern::start
