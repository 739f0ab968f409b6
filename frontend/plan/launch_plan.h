// LaunchPlan: everything that a start needs, decided but not yet opened or executed. Built by
// make_plan() from an action; executed by frontend/userns or frontend/suid.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>

#include "frontend/init/record.h"
#include "frontend/plan/identity.h"
#include "frontend/plan/network.h"
#include "frontend/plan/skeleton.h"
#include "protocol/base/unique_fd.h"
#include "protocol/launch_request.h"

namespace postern::plan {

// What a descriptor index of the request stands for. Where it is opened depends on the mode: a
// mount can be cloned only in the mount namespace in which its descriptor was opened, so
// user-namespace mode opens paths in the payload's process and suid mode in the frontend.
struct Source {
  enum class Kind : std::uint8_t {
    kPath,      // open(path, O_PATH|O_CLOEXEC): binds, devices, directory roots
    kImage,     // an image file, already open O_RDONLY: `fd`
    kFuse,      // /dev/fuse, served by postern-squashfs from `server`
    kContent,   // bytes, handed over in a sealed memfd: generated files, the launch record
    kInit,      // the postern-init program: `path`
    kKey,       // sealed memfd with a volume key: `fd`
    kServed,    // `path` inside the file system of `server`, as the source of a bind: mounted
                // privately and opened O_PATH there (user-namespace mode only)
    kSkeleton,  // a layer with the directories of LaunchPlan::skeleton (user-namespace mode only)
  };
  // kContent: made from a file of the image's own, which the frontend can read only where the root
  // is a directory (`content` is then final). Elsewhere whoever can read the image (the server, or
  // the payload's process once the root is mounted) passes that file to finish_content below.
  // The operation has kNeedsTarget: an image without the file gets none.
  enum class Merge : std::uint8_t { kNone, kPasswd, kGroup };

  Kind kind = Kind::kPath;
  Merge merge = Merge::kNone;
  std::string path;        // kPath, kInit, kServed; kContent with `merge`: of the image's file
  UniqueFd fd;             // kImage, kKey
  std::string content;     // kContent
  std::size_t server = 0;  // kFuse: index into LaunchPlan::servers
  bool no_links = false;   // kPath: a directory, and no link to one
  bool or_root = false;    // kServed: the root of the file system, where it has no `path`
};

// How the path of a kPath source is opened (open(2)).
inline int open_flags(const Source& source) noexcept {
  return O_PATH | O_CLOEXEC | (source.no_links ? O_DIRECTORY | O_NOFOLLOW : 0);
}

// Who serves a file system.
enum class Served : std::uint8_t {
  kSquashfs,  // postern-squashfs
  kExt,       // fuse2fs(1)
  kUnion,     // fuse-overlayfs(1)
  kProgram,   // the user's own, of --fusemount
};

// A layer of a union: what a server of the plan serves, or a directory of the host.
struct UnionLayer {
  std::optional<std::size_t> server;
  std::string path;
  bool may_be_overlay = false;  // then its files are in "upper", where it has that
};

// One extent of an image, to be served by postern-squashfs, or what `served` says.
struct ImageServer {
  Served served = Served::kSquashfs;
  bool writable = false;             // kExt
  std::vector<UnionLayer> layers;    // kUnion: the lowest first; the last is the writable one
  std::vector<std::string> command;  // kProgram: its words, without a mount point
  std::string path;                  // for messages and for finding a running server
  UniqueFd image;                    // O_RDONLY
  std::uint64_t offset = 0;          // bytes
  std::uint64_t bytes = 0;
  std::optional<VerityGeometry> verity;
  std::optional<CryptGeometry> crypt;  // key_descriptor unused: the key is `key`
  bool gocryptfs = false;              // a gocryptfs container, not squashfs
  UniqueFd key;                        // sealed memfd: 64 bytes, of gocryptfs 32
  std::string program;  // of it, that will probably be executed: a path or a name; "": not known
};

enum class Fakeroot : std::uint8_t {
  kNone,
  kRootMapped,   // single id: the caller appears as root
  kSubordinate,  // ranges of /etc/subuid and /etc/subgid through newuidmap, newgidmap
  kAllIds,       // root: every id of the caller's own user namespace
};

struct LaunchPlan {
  LaunchRequest request;        // descriptor indexes refer to `sources`
  std::vector<Source> sources;  // [0] is the root
  std::vector<ImageServer> servers;
  init::LaunchRecord record;
  Identity identity;                    // the caller inside: for Source::Merge
  std::vector<SkeletonEntry> skeleton;  // missing mount points that only a layer can hold
  Fakeroot fakeroot = Fakeroot::kNone;
  bool contain = false;
  std::optional<CarriedNetwork> network;  // of the new network namespace: user-namespace mode
  std::vector<int>
      inherited;           // the caller's open descriptors, for the payload (system/inherited.h)
  UniqueFd control_group;  // cgroup.procs of the payload's group; not valid: it stays in ours
  bool share = true;       // join a running server of the same image (--no-share)
  std::string image_name;  // for messages
};

// The final bytes of a kContent source with `merge`, given the image's own file.
inline std::string finish_content(const LaunchPlan& plan,
                                  const Source& source,
                                  std::string_view image_file) {
  switch (source.merge) {
    case Source::Merge::kNone:
      break;
    case Source::Merge::kPasswd:
      return merge_passwd(image_file, plan.identity, plan.record.home);
    case Source::Merge::kGroup:
      return merge_group(image_file, plan.identity);
  }
  return source.content;
}

}  // namespace postern::plan
