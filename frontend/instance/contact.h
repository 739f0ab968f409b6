// Who is at the other end of an instance's socket. Nobody is believed for the name of a file: a
// monitor is a process of the same user on the host, and so is whoever it serves. A container that
// was given the folder of the sockets is in another mount namespace, and neither can take the place
// of a monitor nor join what it was not started in.
#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

#include "protocol/base/unique_fd.h"

namespace postern::instance {

struct Peer {
  pid_t pid = -1;
  uid_t uid = 0;
  UniqueFd process;  // pidfd_open(2): the same process as long as it lives
};

// Of a connected socket. False: it is gone, or cannot be told.
bool peer_of(int socket, Peer& peer) noexcept;

// Whether the process sees the same mounts as this one, and still lives.
bool is_in_our_place(const Peer& peer) noexcept;

bool has_ended(const Peer& peer) noexcept;

// What a monitor says of its instance, in one message.
struct Description {
  pid_t pid = -1;  // of the process 1 of the instance, as this host knows it
  std::string image;
  std::string out;
  std::string err;
};

inline constexpr std::size_t kMostDescriptionBytes = 32 * 1024;

std::string encode(const Description& description);
// False: the bytes are no description.
bool decode(const std::string& bytes, Description& description);

}  // namespace postern::instance
