// The Singularity Image Format (SIF), version 01: where every byte lies. No code that reads files.
//
// All integers are little endian on every host; nothing is padded. A file is
//
//     0 ┌──────────────────────────────┐
//       │ global header, 128 bytes     │   0 launch script  32  text, NUL padded, ≤ 31 bytes of
//       text └──────────────────────────────┘  32 magic          10  "SIF_MAGIC" NUL (zeros) 42
//       version         3  "01" NUL
//  4096 ┌──────────────────────────────┐  45 architecture    3  two digits NUL (Architecture)
//       │ descriptor table             │  48 image id       16  UUID, all zero = nil
//       │ `total` slots of 585 bytes   │  64 created       i64  Unix seconds, kNoTime = none
//       └──────────────────────────────┘  72 modified      i64
// 32176 ┌──────────────────────────────┐  80 free slots    i64
//       │ data objects                 │  88 total slots   i64  capacity of the table
//       └──────────────────────────────┘  96 table offset  i64
//                                        104 table bytes   i64
//                                        112 data offset   i64
//                                        120 data bytes    i64
//
// One slot of the table:
//     0 data type i32   4 used u8 (any non-zero)   5 id u32 (slot + 1)   9 group u32 (| kGroupMask)
//    13 link u32       17 offset i64              25 size i64           33 size with padding i64
//    41 created i64    49 modified i64            57 uid i64            65 gid i64
//    73 name 128, NUL padded (no NUL when full)  201 extra 384, by data type, zero padded
//
// The extra area: partition   = i32 file system, i32 partition type, 3 bytes architecture
//                 signature   = i32 hash, 256 bytes of which 20 are the primary key's fingerprint
//                 message     = i32 format, i32 type        SBOM = i32 format
//                 OCI objects = "sha256:<64 hex>", NUL terminated by the padding
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace postern::sif {

inline constexpr std::size_t kHeaderBytes = 128;
inline constexpr std::size_t kDescriptorBytes = 585;
inline constexpr std::size_t kLaunchBytes = 32;
inline constexpr std::size_t kMaxLaunchText = 31;
inline constexpr std::size_t kNameBytes = 128;
inline constexpr std::size_t kExtraBytes = 384;
inline constexpr std::size_t kFingerprintBytes = 20;
inline constexpr std::size_t kUuidBytes = 16;

inline constexpr std::string_view kMagic{"SIF_MAGIC\0", 10};
inline constexpr std::string_view kVersion{"01\0", 3};
inline constexpr std::string_view kLaunchScript = "#!/usr/bin/env run-singularity\n";
static_assert(kLaunchScript.size() == kMaxLaunchText);

// Offsets inside the header.
inline constexpr std::size_t kLaunchAt = 0;
inline constexpr std::size_t kMagicAt = 32;
inline constexpr std::size_t kVersionAt = 42;
inline constexpr std::size_t kArchitectureAt = 45;
inline constexpr std::size_t kUuidAt = 48;
inline constexpr std::size_t kCreatedAt = 64;
inline constexpr std::size_t kModifiedAt = 72;
inline constexpr std::size_t kFreeAt = 80;
inline constexpr std::size_t kTotalAt = 88;
inline constexpr std::size_t kTableOffsetAt = 96;
inline constexpr std::size_t kTableBytesAt = 104;
inline constexpr std::size_t kDataOffsetAt = 112;
inline constexpr std::size_t kDataBytesAt = 120;
static_assert(kDataBytesAt + 8 == kHeaderBytes);

// Offsets inside a descriptor.
inline constexpr std::size_t kTypeAt = 0;
inline constexpr std::size_t kUsedAt = 4;
inline constexpr std::size_t kIdAt = 5;
inline constexpr std::size_t kGroupAt = 9;
inline constexpr std::size_t kLinkAt = 13;
inline constexpr std::size_t kOffsetAt = 17;
inline constexpr std::size_t kSizeAt = 25;
inline constexpr std::size_t kPaddedSizeAt = 33;
inline constexpr std::size_t kObjectCreatedAt = 41;
inline constexpr std::size_t kObjectModifiedAt = 49;
inline constexpr std::size_t kUidAt = 57;
inline constexpr std::size_t kGidAt = 65;
inline constexpr std::size_t kNameAt = 73;
inline constexpr std::size_t kExtraAt = 201;
static_assert(kNameAt + kNameBytes == kExtraAt && kExtraAt + kExtraBytes == kDescriptorBytes);

// What writers choose.
inline constexpr std::int64_t kDefaultTableOffset = 4096;
inline constexpr std::int64_t kDefaultCapacity = 48;
inline constexpr std::int64_t kPartitionAlignment = 4096;

// Our own bound: a table is read whole, and a sparse file makes "fits in the file" meaningless.
// Known writers make 48 slots.
inline constexpr std::int64_t kMaxCapacity = 8192;

// Year 1 of Go's clock: "no time".
inline constexpr std::int64_t kNoTime = -62135596800;

// Group numbers are stored with these bits set; a link with all of them set names a group.
inline constexpr std::uint32_t kGroupMask = 0xF0000000U;

enum class DataType : std::int32_t {
  kDefinition = 0x4001,
  kEnvironment = 0x4002,
  kLabels = 0x4003,
  kPartition = 0x4004,
  kSignature = 0x4005,
  kGenericJson = 0x4006,
  kGeneric = 0x4007,
  kCryptoMessage = 0x4008,
  kSbom = 0x4009,
  kOciRootIndex = 0x400A,
  kOciBlob = 0x400B,
};

enum class FileSystem : std::int32_t {
  kSquashfs = 1,
  kExt3 = 2,
  kArchive = 3,
  kRaw = 4,
  kLuksSquashfs = 5,       // LUKS2 container holding squashfs
  kGocryptfsSquashfs = 6,  // squashfs holding a gocryptfs file holding squashfs
};

enum class PartitionType : std::int32_t {
  kSystem = 1,
  kPrimarySystem = 2,
  kData = 3,
  kOverlay = 4
};

enum class HashType : std::int32_t {
  kSha256 = 1,
  kSha384 = 2,
  kSha512 = 3,
  kBlake2s256 = 4,
  kBlake2b256 = 5,
};

enum class MessageFormat : std::int32_t { kOpenPgp = 1, kPem = 2 };

enum class MessageType : std::int32_t { kClearSignature = 0x100, kRsaOaep = 0x200 };

enum class SbomFormat : std::int32_t {
  kCycloneDxJson = 1,
  kCycloneDxXml,
  kGithubJson,
  kSpdxJson,
  kSpdxRdf,
  kSpdxTagValue,
  kSpdxYaml,
  kSyftJson,
};

// The numbers are the two digits of the stored code.
enum class Architecture : std::uint8_t {
  kUnknown = 0,
  k386,
  kAmd64,
  kArm,
  kArm64,
  kPpc64,
  kPpc64le,
  kMips,
  kMipsle,
  kMips64,
  kMips64le,
  kS390x,
  kRiscv64,
  kLoong64,
  kCount_,
};

// Names as shown to users; "Unknown" (architectures: "unknown") for a value outside the table.
std::string_view name_of(DataType type) noexcept;
std::string_view name_of(FileSystem fs) noexcept;
std::string_view name_of(PartitionType type) noexcept;
std::string_view name_of(HashType hash) noexcept;
std::string_view name_of(MessageFormat format) noexcept;
std::string_view name_of(MessageType type) noexcept;
std::string_view name_of(SbomFormat format) noexcept;
std::string_view name_of(Architecture architecture) noexcept;

// The inverse for SBOM formats and architectures (Go's GOARCH names); false where unknown.
bool parse_name(std::string_view name, SbomFormat& out) noexcept;
bool parse_name(std::string_view name, Architecture& out) noexcept;

// Three stored bytes to an architecture: anything outside the table is kUnknown.
Architecture architecture_from_code(std::string_view code) noexcept;
std::array<char, 3> architecture_code(Architecture architecture) noexcept;

// The architecture this program was compiled for.
Architecture host_architecture() noexcept;

}  // namespace postern::sif
