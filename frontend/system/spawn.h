// Starting another program: descriptors under fixed numbers, its environment, its output, its end.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "frontend/system/descriptor_limit.h"
#include "protocol/base/result.h"

namespace postern::system {

// A descriptor of ours and the number that it has in the program.
struct Passed {
  int descriptor = -1;
  int number = -1;
};

// What to execute. Every descriptor of ours but 0, 1, 2 and `passed` ends with the exec: all are
// close-on-exec.
//   program      a path; without a slash it is looked up in PATH
//   words        argv, the program's name first
//   passed       numbers may be those of other descriptors of ours: sources are moved out of the
//   way environment  whole; nothing = that of this process
//   limit        if given, the program has the caller's, not that which was raised
struct Command {
  std::string program;
  std::vector<std::string> words;
  std::vector<Passed> passed = {};
  std::optional<std::vector<std::string>> environment = {};
  const DescriptorLimit* limit = nullptr;
};

// The pid of a child that executes `command`. The error is that of posix_spawn(3) or fcntl(2).
Result<pid_t> spawn(const Command& command);

// The status of wait(2) of a child of ours; signals that we handle do not end the wait.
int wait_for_end(pid_t pid);

struct Finished {
  int status = 0;      // of wait(2)
  std::string output;  // of descriptor 1
};

// Runs `command` to its end and reads what it writes to descriptor 1. A program that writes more
// than `limit` bytes gets SIGPIPE, and the output is what it wrote until then.
Result<Finished> run_and_read(Command command, std::size_t limit);

// "was killed by Killed", "ended with status 3".
std::string describe_end(int status);

}  // namespace postern::system
