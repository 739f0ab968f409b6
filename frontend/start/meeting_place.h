// Where the starts of one user find each other's image servers: sockets in a directory that is the
// user's alone. No other user can see, connect to or occupy a name in it; a container is given it
// only where its caller binds the folder around it, and what comes from inside a container is
// refused by both sides then (image_server.cc, frontend/squashfs/share.cc).
#pragma once

#include <cstdint>
#include <string>

#include "frontend/start/private_place.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// The name of one server's socket.
struct Meeting {
  UniqueFd directory;
  std::string path;  // of the directory
  std::string name;
  std::uint64_t inode = 0;
};

enum class Met : std::uint8_t {
  kFirst,   // nobody served it: the socket listens under that name from now on
  kJoined,  // the socket is connected to whoever listens there
  kNobody,  // there is no private directory, or nobody answers in it
};

// Waits for what is not proved to be ours no longer than kPatienceSeconds.
Met meet(const std::string& name, Meeting& meeting, UniqueFd& socket);

// Removes the name, if it is still that server's, and the directory with its last name.
void forget(Meeting& meeting) noexcept;

}  // namespace postern::start
