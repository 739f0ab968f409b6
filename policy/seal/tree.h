// Building and checking a dm-verity hash tree, on all processors.
//
// Every level is hashed from the file and written to (or compared with) the file, so that memory
// does not grow with the image.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>

#include "policy/problem.h"
#include "policy/seal/seal.h"

namespace postern::seal {

struct TreePlace {
  std::uint64_t data_offset = 0;  // bytes in the file: first data block
  std::uint64_t data_blocks = 0;  // at least 1
  std::uint64_t tree_offset = 0;  // bytes in the file: first hash block
  std::span<const std::uint8_t> salt = {};
};

// Told how many bytes of data more were hashed; calls never overlap.
using TreeProgress = std::function<void(std::uint64_t bytes)>;

// Writes the hash blocks with pwrite(2) and returns the root hash. `threads` 0: one a processor.
Outcome<std::array<std::uint8_t, kHashBytes>> build_tree(int fd,
                                                         const TreePlace& place,
                                                         const TreeProgress& progress = {},
                                                         unsigned threads = 0);

// Error: which block of the data or of the tree differs from what the root hash says.
Outcome<> check_tree(int fd,
                     const TreePlace& place,
                     std::span<const std::uint8_t, kHashBytes> root_hash,
                     const TreeProgress& progress = {},
                     unsigned threads = 0);

}  // namespace postern::seal
