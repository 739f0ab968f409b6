// Reading what the helper handed over (protocol/judge_input.h).
#pragma once

#include <cstddef>
#include <vector>

#include "protocol/base/result.h"
#include "protocol/judge_input.h"

namespace postern::judge {

struct Input {
  JudgeInput head{};
  std::vector<std::uint32_t> groups;
  std::vector<std::byte> request;
};

// Reads the memfd. Error: EBADMSG where its size, magic or counts are not what the helper writes.
[[nodiscard]] Result<Input> read_input(int fd) noexcept;

}  // namespace postern::judge
