// postern-squashfs processes: starting one, or finding the one that already serves the image.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "frontend/plan/launch_plan.h"
#include "frontend/start/id_map.h"
#include "frontend/start/meeting_place.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// The program that serves an image: one without ciphers if it needs none and is installed.
std::string server_program(const plan::ImageServer& image);

// The arguments of postern-squashfs that say where the file system lies in the image, and how its
// bytes are checked and decrypted; `key`: the number of its descriptor of the volume key.
std::vector<std::string> extent_arguments(const plan::ImageServer& image, const std::string& key);

struct Server {
  UniqueFd channel;  // to a shared server: as long as it is open, the server waits for us
  pid_t pid = -1;    // our child; -1 where joined
  UniqueFd pidfd;    // joined: readable once the server is gone
  UniqueFd log;      // ours: memfd that is the server's standard error
  Meeting meeting;   // its name

  bool foreign = false;  // foreign_server.h

  UniqueFd user_namespace;   // of the mount
  UniqueFd mount_namespace;  // to clone it in (clone_mount_of)
  UniqueFd device;           // in place of these in setuid mode: /dev/fuse, for the helper

  [[nodiscard]] bool joined() const noexcept { return pid < 0; }
};

struct ServerOptions {
  Ids ids;
  plan::Fakeroot fakeroot = plan::Fakeroot::kNone;
  int user_namespace = -1;  // to mount in; -1 = a new one
  bool share = false;
  bool on_host = false;  // suid mode: no user namespace at all, the helper mounts
};

// One server a node, caller, image and step of a batch job: who comes first starts it, everybody
// else joins it: in user-namespace mode by its namespaces, never by /dev/fuse. The name holds the
// identity of the file and of the extent, so an image that was replaced is another image.
Outcome<Server> obtain_server(const plan::ImageServer& image, const ServerOptions& options);

// For a server that nobody came to mount: ends it, and says what it had to say, "" where nothing.
std::string end_server(Server& server);

// This start is over. Says on standard error what the server, ours or a joined one, had to say
// about the image by now: a block that does not match its seal. False: it died under the payload,
// for one that lives waits until all its starts have left.
bool leave_server(Server& server, const std::string& image);

// What the socket of the image's server is called.
Outcome<std::string> server_name(const plan::ImageServer& image, const ServerOptions& options);

}  // namespace postern::start
