// What the helper hands to the judge that it starts, and what the judge hands back.
//
// The judge is `<libexec>/postern-judge`, argv {"postern-judge"}, empty environment, working
// directory "/", the ids of the judge's system user with no supplementary group, fixed resource
// limits, umask 022, signals as the caller left them but SIGALRM and SIGCHLD. Its descriptors, all
// others closed:
//
//      0–2    /dev/null
//      3      memfd holding a JudgeInput and, to its end, the ids of the supplementary groups: the
//      judge
//             reads it, writes one Verdict, as long as it is used, over it and exits 0
//      4      the request (protocol/launch.capnp): the caller's, so of any kind and size, and the
//             caller may write it meanwhile. Read once, into memory of the judge's own
//      5+i    request descriptor i, for i in 0 … descriptor_count-1; 0 is the root's: image file,
//             /dev/fuse or directory
//
// The request descriptors are the caller's own open files: pread(2) them (the file offset is shared
// with the caller), and expect any of them to be of any kind. Any other exit status or a short
// answer is RefusalCode::kJudgeFailed.
#pragma once

#include <cstdint>

namespace postern {

inline constexpr std::uint32_t kJudgeInputMagic = 0x504a4933;  // "PJI3"

enum : int { kJudgeFd = 3, kJudgeRequestFd, kJudgeDescriptorBase };

// uid, gid: the caller's real ids, as the kernel gave them to the helper.
// descriptor_count: of those that came with the request.
// open_for_writing: 1 if some process has the root's file open for writing (fcntl(2), F_SETLEASE).
struct JudgeInput {
  std::uint32_t magic = kJudgeInputMagic;
  std::uint32_t uid, gid, descriptor_count, open_for_writing;
};

}  // namespace postern
