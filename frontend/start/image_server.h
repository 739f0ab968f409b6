// postern-squashfs processes: starting one, or finding the one that already serves the image.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "frontend/plan/launch_plan.h"
#include "frontend/start/id_map.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// What a server hands to whoever is to mount its image.
struct ServerDescriptors {
  UniqueFd fuse;  // /dev/fuse, opened inside `user_namespace`
  UniqueFd user_namespace;
};

// Receives them from a server's channel: from our own server's start, or as a joiner, who gets
// /dev/fuse only and finds the namespace through /proc. Returns 0 or errno; ENODATA: it is gone.
int receive_server_descriptors(int channel, ServerDescriptors& out) noexcept;

// The other direction. Returns 0 or errno.
int send_server_descriptors(int channel, int fuse, int user_namespace) noexcept;

// The arguments of postern-squashfs that say where the file system lies in the image, and how its
// bytes are checked and decrypted. After "--key-fd" stands "00", for the number of `image.key`.
std::vector<std::string> extent_arguments(const plan::ImageServer& image);

struct Server {
  UniqueFd channel;  // the descriptors of the mount arrive here
  pid_t pid = -1;    // our child; -1 where joined
  UniqueFd pidfd;    // joined: readable once the server is gone
  UniqueFd log;      // memfd that is the server's standard error; joined: once it was taken
  UniqueFd socket;   // joined, where `channel` is another one by now: the log comes over it

  [[nodiscard]] bool joined() const noexcept { return pid < 0; }
};

struct ServerOptions {
  Ids ids;
  plan::Fakeroot fakeroot = plan::Fakeroot::kNone;
  int user_namespace = -1;  // to open /dev/fuse in; -1 = a new one
  bool share = false;
  bool on_host = false;  // suid mode: no user namespace at all, the helper mounts
};

// One server a node, caller and image: whoever binds the image's abstract socket first starts it,
// everybody else connects to it. The name holds the identity of the file and of the extent, so an
// image that was replaced is another image; it lives and dies with the server (unix(7)).
Outcome<Server> obtain_server(const plan::ImageServer& image, const ServerOptions& options);

// For a server that nobody came to mount: ends it, and says what it had to say, "" where nothing.
std::string end_server(Server& server);

// Takes the log that a joined server has sent behind the mount. Once the mount was received: what
// lies in a socket counts as in flight, of which a user may have as many as a process may have
// descriptors (getrlimit(2), RLIMIT_NOFILE), and a server of many could hand over no more.
void take_log(Server& server);

// Says on standard error what the server, ours or a joined one, had to say about the image by now:
// a block that does not match its seal.
void report_server(Server& server, const std::string& image);

// The abstract name of the image's socket, without the leading NUL.
Outcome<std::string> server_name(const plan::ImageServer& image, const ServerOptions& options);

}  // namespace postern::start
