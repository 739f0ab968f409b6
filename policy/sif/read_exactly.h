// Reading a file that is being written or copied. What decides about an image is read through a
// Snapshot instead (policy/snapshot/snapshot.h).
#pragma once

#include <cstdint>
#include <span>

#include "policy/problem.h"

namespace postern::sif {

// Exactly out.size() bytes at `offset` by pread(2). The error names `what` ("reading the object").
Outcome<> read_exactly(int fd, std::uint64_t offset, std::span<std::uint8_t> out, const char* what);

}  // namespace postern::sif
