// What the helper hands to the judge that it starts, and what the judge hands back.
//
// The judge is `<libexec>/postern-judge`, argv {"postern-judge"}, empty environment, working
// directory "/", the ids of the judge's system user with no supplementary group, fixed resource
// limits, umask 077, default signals. Its descriptors, all others closed:
//
//      0      request descriptor 0, the root: image file, /dev/fuse or directory
//      1, 2   /dev/null
//      3      empty memfd: the judge writes one whole Verdict and exits 0
//      4      sealed memfd: JudgeInput, group_count ids, then the request datagram to the end
//      4+i    request descriptor i, for i in 1 … descriptor_count-1
//
// The request descriptors are the caller's own open files: pread(2) them (the file offset is shared
// with the caller), and expect any of them to be of any kind. Any other exit status, a short or a
// long answer is RefusalCode::kJudgeFailed.
#pragma once

#include <cstdint>
#include <type_traits>

namespace postern {

inline constexpr std::uint32_t kJudgeInputMagic = 0x504a4931;  // "PJI1"

inline constexpr int kJudgeRootFd = 0;
inline constexpr int kJudgeVerdictFd = 3;
inline constexpr int kJudgeRequestFd = 4;
inline constexpr int kJudgeDescriptorBase = 4;  // request descriptor i, i >= 1, is at base + i

// Layout of the memfd:  | JudgeInput (24) | group_count x uint32 | request bytes … EOF |
struct JudgeInput {
  std::uint32_t magic;  // kJudgeInputMagic
  std::uint32_t uid;    // real ids of the caller, as the kernel gave them to the helper
  std::uint32_t gid;
  std::uint32_t descriptor_count;  // that came with the request datagram
  std::uint32_t group_count;       // supplementary groups that follow; at most kMaxGroups
  std::uint32_t reserved;          // 0
};

static_assert(sizeof(JudgeInput) == 24 && std::is_trivially_copyable_v<JudgeInput>);

}  // namespace postern
