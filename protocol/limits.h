// The bounds on what a caller can size that the helper relies on. Units in the names or beside
// them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace postern {

// Of one request; and of one of its datagrams, SCM_MAX_FD of the kernel (unix(7)).
inline constexpr std::size_t kMaxDescriptors = 1200, kMaxRights = 253;

// The verdict's operation table, layers and string arena.
inline constexpr std::size_t kMaxOperations = 1280, kMaxLayers = 16, kArenaBytes = 256 * 1024;

// The kernel's: PATH_MAX, the NUL counted; HOST_NAME_MAX, without; NGROUPS_MAX.
inline constexpr std::size_t kMaxTargetBytes = 4096, kMaxHostnameBytes = 64, kMaxGroups = 65536;

// A generated file (passwd, group, resolv.conf …) that the plan places in the root; a tmpfs of a
// container.
inline constexpr std::uint64_t kMaxFileBytes = 4 * 1024 * 1024, kMaxSessionBytes = 1ULL << 40;

// What a site may grant in setuid mode at all, as bits of capability(7). Each of these leaves
// files, ids, other processes, the kernel and the node's configuration alone: 10 NET_BIND_SERVICE,
// 11 NET_BROADCAST, 13 NET_RAW, 14 IPC_LOCK, 23 SYS_NICE, 35 WAKE_ALARM, 36 BLOCK_SUSPEND.
// helper/README.md, section 8, says of the others why not.
inline constexpr std::uint64_t kGrantable = 0x18'0080'6c00;

// One overall deadline of the helper, in seconds: from exec to exit, whatever the peer does.
inline constexpr unsigned kHelperDeadlineSeconds = 20;

}  // namespace postern
