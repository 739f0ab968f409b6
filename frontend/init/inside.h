// Becoming the payload, inside the container: what postern-init does, and what the payload's
// process does itself where no other program is needed for it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/init/environment.h"
#include "frontend/init/record.h"
#include "policy/problem.h"

namespace postern::init {

// The caller's umask, signals and working directory. Error: the working directory, where required.
Outcome<> settle(const LaunchRecord& record);

// The seccomp filter of the record, if any: the last thing that takes system calls of ours.
Outcome<> install_filter(const LaunchRecord& record);

// What the image's environment scripts make of the runtime's variables.
struct ImageEnvironment {
  Environment environment;
  bool plain = true;     // no shell was needed, `environment` is complete
  std::string commands;  // what a shell is to execute, where it was
  std::vector<std::string> warnings;
};

ImageEnvironment run_environment_scripts(const LaunchRecord& record);

// PWD, as the kernel sees the current directory.
void set_working_directory(Environment& environment);

// `text` between `quote`s, with `special` replaced.
std::string quoted(std::string_view text, char special, std::string_view replacement, char quote);

// The whole way, where it needs neither a shell of the image nor a reaper: does not return once the
// payload runs; the exit status where it cannot; nullopt where it takes postern-init, nothing that
// it would not do again having been done.
std::optional<int> run_in_place(const LaunchRecord& record);

}  // namespace postern::init
