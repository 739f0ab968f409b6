// The bounds on what a caller can size that the helper relies on. Units in the names or beside them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace postern {

// Of one request. SCM_MAX_FD of the kernel is 253 (unix(7)).
inline constexpr std::size_t kMaxDescriptors = 250;

// The verdict's operation table and string arena.
inline constexpr std::size_t kMaxOperations = 320;
inline constexpr std::size_t kMaxLayers = 16;
inline constexpr std::size_t kArenaBytes = 64 * 1024;
inline constexpr std::size_t kMaxTargetBytes = 4096;  // PATH_MAX, the NUL counted
inline constexpr std::size_t kMaxHostnameBytes = 64;  // HOST_NAME_MAX of Linux, no NUL
inline constexpr std::size_t kMaxGroups = 65536;      // NGROUPS_MAX

// A generated file (passwd, group, resolv.conf …) that the plan places in the root.
inline constexpr std::uint64_t kMaxFileBytes = 4 * 1024 * 1024;

// A tmpfs of a container.
inline constexpr std::uint64_t kMaxSessionBytes = 1ULL << 40;

// One overall deadline of the helper, in seconds: from exec to exit, whatever the peer does.
inline constexpr unsigned kHelperDeadlineSeconds = 20;

}  // namespace postern
