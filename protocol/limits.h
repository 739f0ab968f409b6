// Every bound on something that a caller can size, in one place. Units in the names or beside them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace postern {

// The request datagram. SCM_MAX_FD of the kernel is 253 (unix(7)).
inline constexpr std::size_t kMaxRequestBytes = 64 * 1024;
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

// The launch record. execve(2) takes at most 6 MiB of arguments and environment (three quarters of
// _STK_LIM); both environments and the arguments are in it.
inline constexpr std::uint64_t kMaxRecordBytes = 16 * 1024 * 1024;

// Private tmpfs of a container: default size when the site sets none ("sessiondir max size").
inline constexpr std::uint64_t kDefaultSessionBytes = 64ULL * 1024 * 1024;
inline constexpr std::uint64_t kMaxSessionBytes = 1ULL << 40;

// One overall deadline of the helper, in seconds: from exec to exit, whatever the peer does.
inline constexpr unsigned kHelperDeadlineSeconds = 20;
// The judge's own: it reads configuration, a header and signatures, no bulk data unless hashing.
inline constexpr unsigned kJudgeDeadlineSeconds = 15;

}  // namespace postern
