// What the judge gives up before it looks at a byte that a caller wrote.
#pragma once

#include <array>
#include <vector>

#include "policy/sandbox/sandbox.h"
#include "protocol/base/result.h"

namespace postern::judge {

// First act: no core file, not attachable, no new privileges, bounded resources. Error: a system
// call that every supported kernel has failed.
[[nodiscard]] Result<> cleanse() noexcept;

// Open descriptors that the sandbox leaves usable for more than reading.
struct SandboxDescriptors {
  int verdict = -1;                    // written to
  std::array<int, 2> logs = {-1, -1};  // sent to; -1 if there is none
};

// Last act before the request is decoded: Landlock without a single rule where the kernel has it,
// and a seccomp allow list: the process can read what is open, compute, answer, log, and exit. It
// opens, executes and connects to nothing. A call outside the list kills.
[[nodiscard]] Result<> enter_sandbox(const SandboxDescriptors& descriptors);

// The list.
[[nodiscard]] std::vector<sandbox::Rule> sandbox_rules(const SandboxDescriptors& descriptors);

}  // namespace postern::judge
