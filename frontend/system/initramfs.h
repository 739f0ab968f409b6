// Nodes whose "/" is the initramfs itself, as stateless nodes have it: it is mounted on nothing.
#pragma once

#include <string_view>

namespace postern::system {

// Whether the root of the process that reads this text, its /proc/self/mountinfo, is the initramfs.
bool has_initramfs_root(std::string_view mountinfo) noexcept;

// The same of this process.
bool has_initramfs_root();

inline constexpr std::string_view kInitramfsRoot =
    "\"/\" is the initramfs itself, which the setuid helper cannot replace (pivot_root(2))";
inline constexpr std::string_view kInitramfsCure =
    "start with --userns, which has another way, or let the node's start go on to a mounted root "
    "(switch_root to a tmpfs or a disk)";

}  // namespace postern::system
