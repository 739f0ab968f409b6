// Facts about who started us and from where, read once.
#pragma once

#include <cstdint>
#include <string>

#include "frontend/plan/identity.h"

namespace postern::plan {

struct Caller {
  Identity identity;      // of the passwd and group databases
  std::string directory;  // absolute; $PWD where it names the current directory, as `pwd -L`
  std::uint32_t umask = 022;
  std::uint64_t ignored_signals = 0;  // bit n-1 = signal n
  std::uint64_t blocked_signals = 0;
};

// `directory` is empty where the current directory was removed. Asks for the names of accounts.
Caller read_caller();

}  // namespace postern::plan
