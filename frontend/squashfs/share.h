// Lets later starts of the same image use this mount.
#pragma once

#include <cstddef>
#include <string>

#include "protocol/base/unique_fd.h"

namespace postern::squashfs {

// Both sides of a connection show that they live in one mount namespace, by a descriptor of it
// (/proc/self/ns/mnt): the payload of a container, of the same uid, has another one and gets no
// descriptor of this. Nobody can enter a namespace by such a descriptor who has no capabilities in
// the user namespace that owns it, so that showing it gives nothing away.
//
// Who joins sends kJoining with its descriptor. The answer is the identity of the image, and with
// it two or three descriptors: the server's mount namespace, and then either the user namespace and
// the mount namespace of the mount, or, where both are the host's own, /dev/fuse. A start that ends
// says kLeaving. The answer is kLast or kOthersRemain, and behind it what this process has said
// about the image. After kLast nobody can join any more.
inline constexpr char kJoining = 'J';
inline constexpr char kLeaving = 'B';
inline constexpr char kLast = 'L';
inline constexpr char kOthersRemain = 'O';
inline constexpr std::size_t kMostIdentityBytes = 160;
inline constexpr std::size_t kMostLogBytes = 4096;

struct Sharing {
  UniqueFd listening;  // does not block
  UniqueFd starter;    // connection to the start that began this server
  UniqueFd token;      // the starter's mount namespace
  UniqueFd user_namespace;
  UniqueFd mount_namespace;
  UniqueFd end;  // eventfd(2): readable once the last mount is gone
  std::string identity;
};

// Serves connections until the last start has left; then gives up the namespaces, and with them its
// own hold on the mount. `fuse`: handed over where there is no mount namespace to join.
void share_mount(Sharing& sharing, int fuse) noexcept;

}  // namespace postern::squashfs
