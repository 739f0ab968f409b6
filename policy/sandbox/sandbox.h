// What a program shuts behind itself before it reads a byte that somebody else wrote: paths, by
// Landlock, and all system calls but those of a table.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "protocol/base/result.h"

namespace postern::sandbox {

// What is done with `call` if (argument & mask) == value; mask 0 asks nothing. Of an argument, its
// low 32 bits count: descriptors, commands and flags have no more (seccomp(2) shows 64).
struct Rule {
  std::uint32_t call = 0;
  std::uint32_t action = SECCOMP_RET_ALLOW;
  unsigned argument = 0;
  std::uint32_t mask = 0;
  std::uint32_t value = 0;
};

// The first rule that fits decides. A call that none fits, and every call of another architecture,
// kills the process. Not by libseccomp, which takes 0.07 ms more and first asks
// the kernel, in ten calls, what it knows.
std::vector<sock_filter> make_filter(std::span<const Rule> rules);

// Needs no_new_privs. Error: errno.
Result<> enter_filter(std::span<const Rule> rules);

// Landlock without a single rule: no path, no network, no other process is reached. Where the
// kernel has none the filter alone stands.
Result<> forbid_paths() noexcept;

}  // namespace postern::sandbox
