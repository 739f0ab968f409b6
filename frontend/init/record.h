// LaunchRecord: what postern-init needs to become the payload. Written by the frontend into a
// memfd, read by postern-init alone, inside the container and without privilege: nobody on the
// trusted side ever looks into it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/base/result.h"

namespace postern::init {

enum class Action : std::uint8_t { kExec = 1, kRun, kShell, kTest, kStart };

struct LaunchRecord {
  Action action = Action::kExec;
  std::vector<std::string> argv;         // exec: the command; others: arguments for the script
  std::vector<std::string> environment;  // NAME=VALUE: imported from the host, filters applied
  std::vector<std::string> forwarded;    // NAME=VALUE: --env, --env-file and the *ENV_ variables:
                                         // applied over what the image's scripts set
  std::vector<std::string> fixed;        // NAME=VALUE: the runtime's own (HOME, *_CONTAINER, PS1 …)
  std::string prepend_path;              // PATH additions of the *ENV_PREPEND_PATH variables
  std::string append_path;
  std::string cwd;            // initial directory
  bool cwd_required = false;  // given by --cwd: failing to enter it is fatal
  bool cwd_expected = false;  // the caller stands in it: starting elsewhere is said
  std::string home;           // entered where cwd cannot be (then /)
  std::string app;            // --app
  std::string shell;          // --shell
  std::uint32_t umask = 022;
  bool no_eval = false;               // --no-eval: values are literal
  bool reaper = false;                // new pid namespace: stay as pid 1, forward signals, reap
  std::string instance;               // the instance's name; empty: no instance
  std::int32_t agent = -1;            // of an instance: the socket that its orders come from
  std::int32_t terminal = -1;         // in an instance: the descriptor of a terminal to control
  bool libs32 = false;                // /.singularity.d/libs32 holds host libraries
  std::uint32_t glibc_needed = 0;     // N: libraries of the host need glibc 2.N; 0 = none do
  std::string glibc_needed_by;        // one of them
  std::vector<std::string> links;     // PATH=TEXT: symbolic links of a minimal /dev, to make
  std::vector<std::string> optional;  // places of optional binds: said where nothing is mounted
  std::uint64_t ignored_signals = 0;  // bit n-1 = signal n was ignored when we were started
  std::uint64_t blocked_signals = 0;
  std::vector<std::vector<std::uint8_t>> filters;  // of system calls, each struct sock_filter[]
  std::int32_t message_level = 1;                  // message::Level
};

// execve(2) takes at most 6 MiB of arguments and environment (three quarters of _STK_LIM); both
// environments and the arguments are in it.
inline constexpr std::uint64_t kMaxRecordBytes = 16 * 1024 * 1024;

// The record as the bytes of the memfd.
std::string encode(const LaunchRecord& record);

// Error: EBADMSG, where the bytes are not what `encode` of this version writes, hold a NUL inside a
// text, or exceed kMaxRecordBytes.
Result<LaunchRecord> decode(std::string_view bytes);

}  // namespace postern::init
