// LaunchRequest: what a frontend asks for. Decoded from Cap'n Proto (launch.capnp) by the judge,
// built by the frontend; in user-namespace mode it never leaves the frontend.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "protocol/verdict.h"

namespace postern {

inline constexpr std::uint16_t kWireVersion = 3;
inline constexpr std::size_t kMaxRequestBytes = 512 * 1024;  // encoded
// Private tmpfs of a container, where the site sets no size ("sessiondir max size").
inline constexpr std::uint64_t kDefaultSessionBytes = 64ULL * 1024 * 1024;

inline constexpr std::size_t kOperationCount = static_cast<std::size_t>(Operation::kMqueue);

enum class Scratch : std::uint8_t {
  kNone = 0,     // no overlay: a missing mount point is an error (or is skipped where optional)
  kMountPoints,  // tmpfs upper layer for missing mount points; the result is read-only
  kWritable,     // tmpfs upper layer that the payload may write (--writable-tmpfs)
  kDirectory,    // upper/ and work/ below a directory of the caller's: user-namespace mode only
};

struct MountRequest {
  Operation operation = Operation::kBind;
  std::uint8_t flags = 0;  // kReadOnly | kOptional | kDirectoryTarget | kNeedsTarget
  std::optional<std::uint16_t> descriptor;
  std::string target;         // absolute path inside the root, no ".." component
  std::uint32_t mode = 0755;  // kTmpfs
  std::uint64_t size = 0;     // kTmpfs, bytes; 0 = the session's size
};

struct LayerRequest {
  RootKind kind = RootKind::kDirectory;
  std::uint16_t descriptor = 0;
};

// Every descriptor index is below the number of descriptors passed and used exactly once; the root
// is descriptor 0.
struct LaunchRequest {
  RootKind root = RootKind::kDirectory;
  Scratch scratch = Scratch::kNone;
  bool writable_root = false;
  std::uint64_t scratch_bytes = 0;          // 0 = the site's default
  std::optional<std::uint16_t> upper;       // Scratch::kDirectory
  std::optional<std::uint16_t> volume_key;  // sealed memfd, 64 bytes
  std::optional<std::uint16_t> join_net;    // network namespace
  std::uint32_t namespaces = 0;             // CLONE_NEW… bits
  std::uint64_t capabilities = 0;           // bit n = capability n
  std::string hostname;                     // empty = keep
  std::vector<LayerRequest> layers;         // bottom first
  std::vector<MountRequest> mounts;         // executed in order
  std::uint16_t init = 0;
  std::uint16_t record = 0;
};

}  // namespace postern
