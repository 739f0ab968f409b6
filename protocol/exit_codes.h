// Exit codes that users see. They are Apptainer's (its documentation, "exit codes"), so that
// scripts keep working; the payload's own status passes through unchanged.
#pragma once

namespace postern {

inline constexpr int kExitFatal = 255;  // any FATAL: bad image, denied by policy, mount failure
inline constexpr int kExitUsage = 1;    // unknown flag or command, wrong number of arguments
inline constexpr int kExitKeyOrTransfer = 2;  // key import, newpair, push, pull, search; image pull
inline constexpr int kExitKeyExport = 10;     // key export
inline constexpr int kExitShellNotFound = 127;

}  // namespace postern
