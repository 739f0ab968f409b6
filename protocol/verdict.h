// Verdict: the one message that the helper acts on. A C struct, of which as much is sent as is
// used, written by the judge (suid mode) or by the frontend itself (user-namespace mode), checked
// field by field by protocol/verdict_check.h before anything is done with it.
//
// Nothing in it is a path of the host: sources are indexes of descriptors that the caller opened;
// targets are paths inside the new root.
#pragma once

#include <array>
#include <cstdint>

#include <sched.h>

#include "protocol/limits.h"

namespace postern {

inline constexpr std::uint32_t kVerdictMagic = 0x50565233;  // "PVR3"
inline constexpr std::uint16_t kNoDescriptor = 0xffff;

// What a request may ask for as new: clone(2). The user namespace is user-namespace mode's alone,
// where it exists before the plan is executed.
inline constexpr std::uint32_t kNamespaces =
    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;

enum class Decision : std::uint8_t { kRefuse, kAllow };

// What a layer is made of. The root is the lowest; those above it (--overlay X:ro) are no images of
// the kernel's.
//   kImage      a regular file: loop device, optional verity, optional crypt, kernel squashfs
//   kFuse       an open /dev/fuse whose server the caller runs
//   kDirectory  a directory
enum class RootKind : std::uint8_t { kImage = 1, kFuse, kDirectory };

// The operations, executed in table order once the root is in place. An operation has the same
// name in the request, in the verdict and in the code that executes it.
//   kBind     descriptor: source opened by the caller, cloned recursively, nosuid,nodev
//   kFile     descriptor: memfd whose bytes become a read-only file at target
//   kTmpfs    fresh tmpfs: size, mode; it belongs to the caller
//   kProc     this mount namespace's /proc, which is a fresh procfs where the pid namespace is new
//   kSysfs    … /sys, which is a fresh sysfs where the network namespace is new
//   kDevHost  … /dev, the host's
//   kDevice   descriptor: one device node of the host's devtmpfs or devpts, bound at target
//   kDevpts   fresh devpts instance: newinstance,ptmxmode=0666
//   kMqueue   fresh mqueue: meaningful in a new ipc namespace
enum class Operation : std::uint8_t {
  kBind = 1,
  kFile,
  kTmpfs,
  kProc,
  kSysfs,
  kDevHost,
  kDevice,
  kDevpts,
  kMqueue
};

// Bits of OperationEntry::flags.
//   kReadOnly         kBind, kSysfs, kFile (always is)
//   kOptional         a missing target or failing mount is skipped, not fatal
//   kDirectoryTarget  the mount point to create, if missing, is a directory (else a file)
//   kNeedsTarget      skip (kOptional) unless the target exists in the image: passwd, group
enum : std::uint8_t { kReadOnly = 1, kOptional = 2, kDirectoryTarget = 4, kNeedsTarget = 8 };

//   descriptor  index, kNoDescriptor where the operation takes none
//   target      offset into the arena: absolute path inside the root, NUL-terminated
//   mode, size  kTmpfs: permission bits of its root, bytes
struct OperationEntry {
  Operation operation;
  std::uint8_t flags;
  std::uint16_t descriptor;
  std::uint32_t target, mode;
  std::uint64_t size;
};

struct LayerEntry {
  RootKind kind;
  std::uint16_t descriptor;
};

// dm-verity(8) / veritysetup superblock version 1, SHA-256, 4096-byte data and hash blocks.
//   data_blocks  of 4096 bytes, counted from the start of the extent; 0 = not sealed
//   tree_offset  bytes in the image file, behind the data: first hash block
//   tree_bytes   bytes of hash blocks; one data block has none
//   salt_bytes   0..32
struct VerityGeometry {
  std::uint64_t data_blocks, tree_offset, tree_bytes;
  std::uint32_t salt_bytes;
  std::array<std::uint8_t, 32> root_hash, salt;
};

// dm-crypt: always aes-xts-plain64 with a 64-byte key.
//   data_bytes      multiple of sector_bytes; 0 = not encrypted
//   data_offset     bytes from the start of the extent
//   iv_offset       in 512-byte units, dm-crypt's "iv_offset"
//   sector_bytes    512 or 4096
//   key_descriptor  sealed memfd holding exactly 64 bytes
struct CryptGeometry {
  std::uint64_t data_bytes, data_offset, iv_offset;
  std::uint16_t sector_bytes;
  std::uint16_t key_descriptor;
};

// magic            kVerdictMagic
// refusal          RefusalCode; refusal_item is the index of the item that it is about, or 0
// All that follows is meaningful only if decision is kAllow.
//   overlay            1: an upper layer above the others, for missing mount points
//   writable           1: the payload may write it, or the root directory if there is none
//   upper_descriptor   directory with upper/ and work/, in user-namespace mode only; else a tmpfs
//   net_descriptor     network namespace to join; kNoDescriptor: none
//   init_descriptor, record_descriptor   postern-init, which the child executes; its launch record
//   namespaces         CLONE_NEW… bits
//   image_offset       bytes; RootKind::kImage
//   image_bytes        what the loop device shows: the hash tree of a seal included
//   scratch_bytes      size of the session tmpfs
//   capabilities       bit n = capability n, granted to the payload
//   hostname           NUL-padded; first byte NUL = keep
//   layer_count        at least 1: the root, whose descriptor is 0; layers are bottom first
//   arena              its first byte is NUL, and the last of the arena_bytes that are used
// What crosses from the judge to the helper is what lies before `operations`, and behind it as many
// operations and as many bytes of the arena as are used.
struct Verdict {
  std::uint32_t magic;
  Decision decision;
  std::uint16_t refusal;
  std::uint32_t refusal_item;
  std::uint8_t overlay, writable;
  std::uint16_t upper_descriptor, net_descriptor, init_descriptor, record_descriptor;
  std::uint32_t namespaces;
  std::uint64_t image_offset, image_bytes;
  VerityGeometry verity;
  CryptGeometry crypt;
  std::uint64_t scratch_bytes, capabilities;
  std::array<char, kMaxHostnameBytes> hostname;
  std::uint16_t layer_count, operation_count;
  std::uint32_t arena_bytes;
  std::array<LayerEntry, 1 + kMaxLayers> layers;
  std::array<OperationEntry, kMaxOperations> operations;
  std::array<char, kArenaBytes> arena;
};

// The helper's answer to the frontend: one datagram, no text.
//   refusal  RefusalCode; kNone where all went well or a call failed
//   op, err  Op of a failed system call, its errno
//   item     index of the offending item
//   pid      the payload's process, a child of the frontend (clone(2), CLONE_PARENT)
struct Reply {
  std::uint16_t refusal, op;
  std::int32_t err;
  std::uint32_t item;
  std::int32_t pid;
};

}  // namespace postern
