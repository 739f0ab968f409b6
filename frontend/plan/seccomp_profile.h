// --security seccomp:FILE: an OCI (Docker, containers-common) profile as a BPF program.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::plan {

// Compiles the JSON `text` for this machine into struct sock_filter[] (seccomp(2)). `capabilities`
// (bit n = capability n) are the container's: rules may depend on them. Differences to be known:
// errnoRet and defaultErrnoRet are honoured; "flags" of seccomp(2) are not the profile's to choose
// and are named in `warnings`.
// Error: what is wrong, and in which rule (counted from 0).
Outcome<std::vector<std::uint8_t>> compile_seccomp(std::string_view text,
                                                   std::uint64_t capabilities,
                                                   std::vector<std::string>& warnings);

// Our own `rules` ("syscalls" of such a profile) for every architecture that this machine runs; all
// other calls are allowed.
Outcome<std::vector<std::uint8_t>> compile_own_rules(std::string_view rules);

// The same of a file; errors name it.
Outcome<std::vector<std::uint8_t>> load_seccomp(const std::string& path,
                                                std::uint64_t capabilities,
                                                std::vector<std::string>& warnings);

}  // namespace postern::plan
