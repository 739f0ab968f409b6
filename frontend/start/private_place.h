// A directory of the caller's alone, and sockets with names in it: where the processes of one user
// on one host find each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include "protocol/base/unique_fd.h"

namespace postern::start {

// How long a process waits for what is not proved to be its own.
inline constexpr int kPatienceSeconds = 3;

// The directory `path` below `folder` (AT_FDCWD), if it is `owner`'s alone (mode 0700) and no link.
UniqueFd open_owned(int folder, const std::string& path, uid_t owner) noexcept;

// The same of the caller; made where it is missing.
UniqueFd open_private_below(int folder, const std::string& path) noexcept;

// Below the runtime directory of the caller's session, else in /tmp; made where it is missing.
// Where another user sits on the name in /tmp: under a name that nobody can guess. Invalid if there
// is no such place.
UniqueFd open_place(std::string& path);

// Everywhere that open_place() of another process of `owner` may have taken, as far as this process
// can know; the first is that of this process.
std::vector<std::string> known_places(uid_t owner);

// SOCK_SEQPACKET, with kPatienceSeconds for each call.
UniqueFd new_socket() noexcept;

enum class Reached : std::uint8_t { kYes, kNothing, kDead, kOther };

// kDead: a socket whose listener is gone. It listens from before it has its name, to its end.
Reached reach(int directory,
              const char* name,
              const UniqueFd& socket,
              std::uint64_t* inode) noexcept;

// flock(2), not for ever: what can see the directory can hold its lock.
bool lock(int directory, int seconds) noexcept;

// Under the lock: a socket that listens, under this name, in the place of what has it. False:
// errno.
bool publish(int directory,
             const std::string& name,
             UniqueFd& socket,
             std::uint64_t& inode) noexcept;

}  // namespace postern::start
