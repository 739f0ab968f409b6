// The command line of postern-squashfs. Another program of ours writes it: every word is checked,
// but the messages are for developers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "frontend/squashfs/cipher.h"
#include "frontend/squashfs/verity.h"
#include "policy/problem.h"

namespace postern::squashfs {

struct Owner {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
};

struct Options {
  int fuse_fd = -1;  // /dev/fuse, opened in the user namespace of the mount
  int image_fd = -1;
  int accounts_fd = -1;         // instead of fuse_fd: hand over the account files and end
  int configuration_fd = -1;    // instead of fuse_fd: hand over gocryptfs.conf and end
  int contents_fd = -1;         // instead of fuse_fd: hand over what gocryptfs decrypts and end
  int listen_fd = -1;           // a listening unix socket; -1: the mount is not shared
  int starter_fd = -1;          // with listen_fd: connection to the start that began this
  int token_fd = -1;            // with listen_fd: its mount namespace
  int user_namespace_fd = -1;   // with listen_fd: of the mount; none: the host's, as is the next
  int mount_namespace_fd = -1;  // … with the mount as its root
  std::string identity;         // with listen_fd: what is said to who joins
  int spare_fd = -1;            // first of `spares` further /dev/fuse; none: opened here
  unsigned spares = 0;
  std::uint64_t offset = 0;  // of the partition in the image file
  std::uint64_t size = 0;
  std::optional<Seal> seal;            // none: the bytes are not checked
  std::optional<CryptGeometry> crypt;  // none: they are not encrypted
  bool gocryptfs = false;              // a gocryptfs container, not squashfs
  int key_fd = -1;                     // holds the volume key; with crypt or gocryptfs only
  std::optional<Owner> owner;          // of every file; none: as the image says
  unsigned threads = 0;                // at most; 0: by the number of CPUs
  unsigned processors = 1;             // that this process may use; not an option
  unsigned cache_mib = 16;             // decoded data blocks
  std::string program;                 // will probably be executed: a path or a name; "": unknown
  std::int32_t starter = 0;  // process that makes the mount, our parent; 0: whoever that is
};

inline constexpr unsigned kMaxThreads = 64;
inline constexpr unsigned kMaxCacheMib = 1024;

Outcome<Options> parse_options(std::span<char* const> arguments) noexcept;

}  // namespace postern::squashfs
