// File systems that programs of other projects serve: fuse2fs(1) for ext2, ext3 and ext4 images,
// and fuse-overlayfs(1) where one of those is the writable layer, which the kernel's overlay does
// not take. The kernel never parses such an image: it is a file system that a user made.
//
// The program runs as the caller, in the container's user namespace and a mount namespace of its
// own, over whose root it mounts what it serves; each start clones the mount there.
#pragma once

#include <span>

#include "frontend/plan/launch_plan.h"
#include "frontend/start/image_server.h"
#include "policy/problem.h"

namespace postern::start {

// `servers`: those of the plan that are running, by their index; a union's layers are among them.
Outcome<Server> start_foreign_server(const plan::ImageServer& image,
                                     std::span<const Server> servers,
                                     const ServerOptions& options);

// Asks the program to write what it holds and to end, and waits for that. Returns what it said.
std::string end_foreign_server(Server& server);

}  // namespace postern::start
