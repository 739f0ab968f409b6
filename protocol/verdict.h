// Verdict: the one message that the helper acts on. A C struct of fixed size, written by the judge
// (suid mode) or by the frontend itself (user-namespace mode), checked field by field by
// protocol/verdict_check.h before anything is done with it.
//
// Nothing in it is a path of the host: sources are indexes of descriptors that the caller opened;
// targets are paths inside the new root.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "protocol/limits.h"

namespace postern {

inline constexpr std::uint32_t kVerdictMagic = 0x50565231;  // "PVR1"
inline constexpr std::uint8_t kNoDescriptor = 0xff;

enum class Decision : std::uint8_t { kRefuse = 0, kAllow = 1 };

// What the root is made of. Descriptor 0 of the request is always the root's.
enum class RootKind : std::uint8_t {
  kImage = 1,      // a regular file: loop device, optional verity, optional crypt, kernel squashfs
  kFuse = 2,       // an open /dev/fuse whose server the caller runs
  kDirectory = 3,  // a directory
};

// A read-only layer under the scratch layer and above the root (--overlay X:ro).
enum class LayerKind : std::uint8_t { kFuse = 1, kDirectory = 2 };

enum class Scratch : std::uint8_t {
  kNone = 0,     // no overlay: a missing mount point is an error (or is skipped where optional)
  kMountPoints,  // tmpfs upper layer for missing mount points; the result is read-only
  kWritable,     // tmpfs upper layer that the payload may write (--writable-tmpfs)
  kDirectory,    // upper/ and work/ below a directory of the caller's: user-namespace mode only
};

// Bits of Verdict::namespaces. kUser is set in user-namespace mode only, where the namespace
// exists before the plan is executed.
enum : std::uint8_t {
  kNamespaceUser = 1 << 0,
  kNamespacePid = 1 << 1,
  kNamespaceIpc = 1 << 2,
  kNamespaceUts = 1 << 3,
  kNamespaceNet = 1 << 4,
  kNamespaceCgroup = 1 << 5,
  kNamespaceAll_ = (1 << 6) - 1,
};

// The operations, executed in table order once the root is in place. An operation has the same
// name in the request, in the verdict and in the code that executes it.
enum class Operation : std::uint8_t {
  kBind = 1,  // descriptor: source opened by the caller, cloned recursively, nosuid,nodev
  kFile,      // descriptor: memfd whose bytes become a read-only file at target
  kTmpfs,     // fresh tmpfs: size, mode
  kProc,      // procfs: fresh in a new pid namespace, else the host's /proc
  kSysfs,     // sysfs: fresh where we own the network namespace, else the host's /sys
  kDevHost,   // the host's /dev, recursive
  kDevice,    // descriptor: one device node of the host's devtmpfs or devpts, bound at target
  kDevpts,    // fresh devpts instance: newinstance,ptmxmode=0666
  kMqueue,    // fresh mqueue: meaningful in a new ipc namespace
  kSymlink,   // text: link text (a minimal /dev); made as the caller, as mount points are
  kCount_,
};

// Bits of OperationEntry::flags.
enum : std::uint8_t {
  kReadOnly = 1 << 0,         // kBind, kFile (always is)
  kOptional = 1 << 1,         // a missing target or failing mount is skipped and reported, not fatal
  kDirectoryTarget = 1 << 2,  // the mount point to create, if missing, is a directory (else a file)
  kNeedsTarget = 1 << 3,      // skip (kOptional) unless the target exists in the image: passwd, group
};

struct OperationEntry {
  Operation operation;
  std::uint8_t flags;
  std::uint8_t descriptor;  // index, kNoDescriptor where the operation takes none
  std::uint8_t reserved;    // 0
  std::uint32_t target;     // offset into the arena: absolute path inside the root, NUL-terminated
  std::uint32_t text;       // offset into the arena: kSymlink's link text; 0 elsewhere
  std::uint32_t mode;       // kTmpfs: permission bits of its root
  std::uint64_t size;       // kTmpfs: bytes, 0 = the session's size (scratch_bytes)
};
static_assert(sizeof(OperationEntry) == 24);

struct LayerEntry {
  LayerKind kind;
  std::uint8_t descriptor;
};

// dm-verity(8) / veritysetup superblock version 1, SHA-256, 4096-byte data and hash blocks.
struct VerityGeometry {
  std::uint8_t present;  // 0 or 1
  std::array<std::uint8_t, 3> reserved;
  std::uint32_t salt_bytes;   // 0..32
  std::uint64_t data_blocks;  // of 4096 bytes, counted from the start of the extent
  std::uint64_t tree_offset;  // bytes in the image file: first hash block (after the superblock)
  std::uint64_t tree_bytes;   // bytes of hash blocks
  std::array<std::uint8_t, 32> root_hash;
  std::array<std::uint8_t, 32> salt;
};

// dm-crypt: always aes-xts-plain64 with a 64-byte key.
struct CryptGeometry {
  std::uint8_t present;         // 0 or 1
  std::uint8_t key_descriptor;  // sealed memfd holding exactly 64 bytes; absent: kNoDescriptor
  std::uint16_t sector_bytes;   // 512 or 4096
  std::uint32_t reserved;
  std::uint64_t data_offset;  // bytes from the start of the extent
  std::uint64_t data_bytes;   // multiple of sector_bytes
  std::uint64_t iv_offset;    // in 512-byte units, dm-crypt's "iv_offset"
};

struct Verdict {
  std::uint32_t magic;  // kVerdictMagic
  Decision decision;
  std::uint8_t kernel_mount;   // 1: the site allows the kernel to mount this image's bytes
  std::uint16_t refusal;       // RefusalCode
  std::uint32_t refusal_item;  // index of the offending item of the request, 0 where none
  // --- all that follows is meaningful only where decision is kAllow
  RootKind root;
  Scratch scratch;
  std::uint8_t namespaces;
  std::uint8_t upper_descriptor;   // Scratch::kDirectory: directory holding upper/ and work/
  std::uint8_t net_descriptor;     // network namespace to join, kNoDescriptor where none
  std::uint8_t init_descriptor;    // postern-init, executed by the child
  std::uint8_t record_descriptor;  // launch record, for postern-init alone
  std::uint8_t writable_root;      // 1: the root directory stays writable (--writable)
  std::uint64_t image_offset;      // bytes; RootKind::kImage
  std::uint64_t image_bytes;
  VerityGeometry verity;
  CryptGeometry crypt;
  std::uint64_t scratch_bytes;                   // size of the session tmpfs
  std::uint64_t capabilities;                    // bit n = capability n, granted to the payload
  std::array<char, kMaxHostnameBytes> hostname;  // NUL-padded; first byte NUL = keep
  std::uint32_t descriptor_count;
  std::uint16_t layer_count;
  std::uint16_t operation_count;
  std::array<LayerEntry, kMaxLayers> layers;  // bottom first, above the root
  std::array<OperationEntry, kMaxOperations> operations;
  std::array<char, kArenaBytes> arena;  // arena[0] is NUL
};
static_assert(std::is_trivially_copyable_v<Verdict> && std::is_standard_layout_v<Verdict>);

// The helper's answer to the frontend: one datagram, no text. `pid` is the payload's process, a
// child of the frontend (clone(2), CLONE_PARENT).
struct Reply {
  std::uint32_t magic;    // kReplyMagic
  std::uint16_t refusal;  // RefusalCode; kNone where all went well or a call failed
  std::uint16_t op;       // Op of a failed system call
  std::int32_t err;       // its errno
  std::uint32_t item;     // index of the offending item
  std::int32_t pid;
  std::uint32_t skipped;                                         // number of kOptional operations that were skipped
  std::array<std::uint64_t, kMaxOperations / 64> skipped_items;  // bit n % 64 of word n / 64
};
inline constexpr std::uint32_t kReplyMagic = 0x50524531;  // "PRE1"

}  // namespace postern
