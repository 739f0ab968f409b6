// Refusal codes: what the helper or the judge says no to. Numbers are part of the protocol: append
// only. Words and cures are in protocol/refusal_table.h, for the frontend and the man pages.
#pragma once

#include <cstdint>

#include "protocol/refusal_helper.h"

namespace postern {

enum class RefusalCode : std::uint16_t {
  kNone = 0,

  // --- helper: the process itself (1..49)
  kNotSetuid = 1,  // the effective user is not root: not installed setuid, or nosuid mount
  kRealRoot,       // called by root: user-namespace mode or plain root does the job
  kNoNewPrivs,     // no_new_privs is set: the kernel ignores the setuid bit
  kUserNamespace,  // inside a user namespace: euid 0 is not the host's root
  kTraced,         // a debugger is attached
  kArguments,      // argv is not what the frontend passes
  kNoSocket,       // descriptor 3 is not the frontend's socketpair
  kDeadline,       // the overall deadline passed
  kJudgeUser,      // the judge's system user does not exist
  kJudgeFailed,    // the judge died or answered nonsense
  kKernelTooOld,   // a system call that we need is missing
  kLimit,          // a resource limit is too small and cannot be raised; item = its number
  kCeiling,        // a capability was granted that root does not let anybody grant

  // --- request and verdict form (50..99)
  kMalformedRequest = 50,  // not a request message, or a field out of bounds
  kProtocolVersion,        // frontend and helper are of different versions
  kDescriptorCount,        // descriptors do not match what the request uses
  kDescriptorKind,         // a descriptor is not of the kind that its use needs
  kImageDescriptor,        // image: not a regular file, write-only, O_PATH, or on FUSE/proc/sysfs
  kMalformedVerdict,       // the verdict did not pass the helper's check

  // --- policy: the judge (100..199). postern.toml unless said otherwise
  kConfigMissing = 100,  // a required configuration file is missing
  kConfigInsecure,       // … or not owned by root, or writable by others (file or a parent)
  kConfigMalformed,      // … or does not parse
  kSuidDisabled,         // suid.enabled = false
  kContainerKind,        // [allow] sif, squashfs, directory = false
  kOwnerLimit,           // [limit] owners
  kGroupLimit,           // [limit] groups
  kPathLimit,            // [limit] paths
  kUnboundRoot,  // limits or an ECL are active: a FUSE or directory root cannot be vouched for
  kNamespaceForbidden,  // [allow] pid, ipc, uts, net, cgroup namespaces
  kBindForbidden,       // [allow] user-binds = false
  kKeyring,             // the site's keyring is not compiled, or not from what it holds now
  kOverlayForbidden,    // [allow] overlay = false
  kCapability,          // capability.toml does not grant it
  kKernelMount,         // kernel-mount forbids mounting this image by the kernel
  kNetworkNamespace,    // [allow] netns-paths does not list it
  kSessionSize,         // scratch larger than session.max-size
  kMountForbidden,      // [mount] proc, sys, dev, tmp … = false
  kImageMalformed,      // the image is not what it says: SIF, squashfs, architecture
  kNoRootPartition,     // no, or more than one, primary system partition
  kAuditLog,            // the audit line could not be written
  kOverlayDirectory,    // an overlay over, or into, a directory: user-namespace mode only

  // --- policy: signatures and ECL (200..249). ecl.toml
  kEclNoGroup = 200,  // no execgroup matches the image's directory
  kEclUnsigned,       // not signed by a required entity
  kEclForbidden,      // signed by a forbidden entity
  kEclSignature,      // a signature does not verify
  kEclBinding,        // admitted, but the bytes are not bound as the rule asks
  kSeal,              // the seal is malformed or does not belong to the partition
  kUnsealed,          // no seal, and too large to be hashed at each start
  kProfile,           // the profile of the image does not allow it

  // --- policy: encryption (250..299)
  kCryptHeader = 250,  // LUKS2 header unusable: version, cipher, integrity, reencryption
  kCryptKey,           // the key does not match the header
  kCryptForbidden,     // [allow] encrypted = false
};

// One enumeration to readers, one number on the wire.
constexpr bool operator==(RefusalCode code, HelperRefusal helper) noexcept {
  return static_cast<std::uint16_t>(code) == static_cast<std::uint16_t>(helper);
}

static_assert(RefusalCode::kNotSetuid == HelperRefusal::kNotSetuid &&
              RefusalCode::kRealRoot == HelperRefusal::kRealRoot &&
              RefusalCode::kNoNewPrivs == HelperRefusal::kNoNewPrivs &&
              RefusalCode::kUserNamespace == HelperRefusal::kUserNamespace &&
              RefusalCode::kArguments == HelperRefusal::kArguments &&
              RefusalCode::kNoSocket == HelperRefusal::kNoSocket &&
              RefusalCode::kJudgeUser == HelperRefusal::kJudgeUser &&
              RefusalCode::kJudgeFailed == HelperRefusal::kJudgeFailed &&
              RefusalCode::kLimit == HelperRefusal::kLimit &&
              RefusalCode::kCeiling == HelperRefusal::kCeiling);

// A "no": its code, and the index of the item of the request that it is about (of `mounts`, or of
// `layers` where the code is about a layer), 0 where it is about the whole.
struct Refusal {
  RefusalCode code = RefusalCode::kNone;
  std::uint32_t item = 0;
};

}  // namespace postern
