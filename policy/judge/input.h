// Reading what the helper handed over (protocol/judge_input.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "protocol/base/result.h"

namespace postern::judge {

struct Input {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::size_t descriptors = 0;        // of the request
  bool open_for_writing = false;      // the root's file, by some process
  std::vector<std::uint32_t> groups;  // supplementary
};

// Reads the helper's file and goes back to its start, for the verdict. Error: EBADMSG where its
// size, magic or counts are not what the helper writes.
[[nodiscard]] Result<Input> read_input(int fd) noexcept;

// The request, which the caller may write meanwhile: what is returned is a copy. Empty where it is
// no regular file or longer than kMaxRequestBytes.
[[nodiscard]] std::vector<std::byte> read_request(int fd) noexcept;

}  // namespace postern::judge
