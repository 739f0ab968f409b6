// What a server may do once it has all that it needs: read its image, answer the kernel, and
// nothing else. An image may be hostile, and so may be what runs here after it.
#pragma once

#include <cstddef>
#include <vector>

#include "policy/problem.h"

namespace postern::squashfs {

// Out of the terminal's reach (own session, its signals ignored), standard input and output given
// back, every descriptor closed but standard error and `kept`.
Outcome<> detach(const std::vector<int>& kept) noexcept;

// Undumpable, no new privileges, resource limits, Landlock with no path at all, seccomp allow-list.
// For this thread and those that it starts. `memory_bytes` bounds the address space.
Outcome<> confine(std::size_t memory_bytes) noexcept;

}  // namespace postern::squashfs
