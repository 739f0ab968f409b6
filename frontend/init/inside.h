// Becoming the payload, inside the container: what postern-init does, and what the payload's
// process does itself where no other program is needed for it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/init/record.h"
#include "frontend/shell/shell.h"
#include "policy/problem.h"

namespace postern::init {

// The caller's umask, signals and working directory. Error: the working directory, where required.
Outcome<> settle(const LaunchRecord& record);

// The record's filters of system calls: the last thing that takes system calls of ours.
Outcome<> install_filters(const LaunchRecord& record);

// What the image's environment scripts make of the runtime's variables.
struct ImageEnvironment {
  shell::Environment environment;
  bool complete = true;     // the reach sufficed; `environment` is meaningless otherwise
  std::optional<int> exit;  // a script said `exit`: the payload does not run
  std::vector<std::string> warnings;
};

// A script that fails is reported, and the next one runs.
ImageEnvironment run_environment_scripts(const LaunchRecord& record, shell::Reach reach);

// PWD, as the kernel sees the current directory.
void set_working_directory(shell::Environment& environment);

// The whole way, where it needs neither a process nor a reaper: does not return once the
// payload runs; the exit status where it cannot; nullopt where it takes postern-init, nothing that
// it would not do again having been done.
std::optional<int> run_in_place(const LaunchRecord& record);

}  // namespace postern::init
