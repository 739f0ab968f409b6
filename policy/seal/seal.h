// A seal: what binds the bytes of a partition that are read later to the signature that is checked
// now. Two ordinary objects in the partition's group, so that signatures cover them and other SIF
// tools list, verify and run the image:
//
//   "postern.verity"  generic; a dm-verity superblock (version 1, hash type 1) in a block of 4096
//                     bytes, then the hash tree, top level first: what `veritysetup --hash-offset`
//                     reads. Aligned to 4096 in the file.
//   "postern.seal"    JSON: {"version":1,"relativeId":0,"treeRelativeId":1,"algorithm":"sha256",
//                     "blockSize":4096,"dataBlocks":N,"rootHash":"<64 hex>","salt":"<hex>"}
//
// Ids are relative to the lowest id of the group, as in signatures: absolute ids are covered by no
// digest, so that with them a whole image could be renumbered until the seal of one partition were
// another's. The tree needs no digest: each of its blocks is checked against the root hash.
//
// Fixed: SHA-256, data and hash blocks of 4096 bytes, salt in front of the block. A partition that
// is not a whole number of blocks cannot be sealed (mksquashfs pads to 4096 unless told not to).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"
#include "policy/sif/reader.h"
#include "protocol/verdict.h"

namespace postern::seal {

inline constexpr std::size_t kBlockBytes = 4096;
inline constexpr std::size_t kHashBytes = 32;
inline constexpr std::size_t kHashesPerBlock = kBlockBytes / kHashBytes;
inline constexpr std::size_t kSaltBytes = 32;  // what we write; 0 … 32 are read
inline constexpr std::size_t kSuperblockBytes = 512;
inline constexpr std::uint64_t kMaxDataBlocks = std::uint64_t{1}
                                                << 40;  // 4 EiB; keeps sums in 64 bits
inline constexpr std::string_view kSealName = "postern.seal";
inline constexpr std::string_view kTreeName = "postern.verity";

// What the JSON object says.
struct SealText {
  std::uint32_t relative_id = 0;  // of the partition
  std::uint32_t tree_relative_id = 0;
  std::uint64_t data_blocks = 0;
  std::array<std::uint8_t, kHashBytes> root_hash = {};
  std::vector<std::uint8_t> salt;  // 0 … 32 bytes
};

struct Found {
  VerityGeometry geometry = {};   // present = 1; the file's offsets
  std::uint32_t seal_object = 0;  // ids
  std::uint32_t tree_object = 0;
};

// Hash blocks of each level for `data_blocks` blocks, leaves first; empty for one data block, whose
// hash is the root hash.
std::vector<std::uint64_t> level_blocks(std::uint64_t data_blocks);
// Bytes of all levels, without the superblock.
std::uint64_t tree_bytes(std::uint64_t data_blocks);

// Strict; errors say what is wrong. Pure.
Outcome<SealText> parse_seal(std::string_view json);
std::string write_seal(const SealText& seal);

// cryptsetup's lib/verity/verity.c, struct verity_sb. Strict: exactly the superblock that
// write_superblock makes for this seal, but for the UUID. Pure.
Outcome<> check_superblock(std::span<const std::uint8_t, kSuperblockBytes> superblock,
                           const SealText& seal);
std::array<std::uint8_t, kSuperblockBytes> write_superblock(const SealText& seal,
                                                            std::span<const std::uint8_t, 16> uuid);

// The partition's seal; none where there is none. Error: a seal that is malformed, is there twice,
// or does not belong to a partition of this size. Nothing is hashed here, and whether a signature
// covers the seal is not asked either: that is policy/ecl/facts.h.
Outcome<std::optional<Found>> find(const sif::Image& image,
                                   Snapshot& bytes,
                                   const sif::Descriptor& partition);
// … the geometry alone.
Outcome<std::optional<VerityGeometry>> find_seal(const sif::Image& image,
                                                 Snapshot& bytes,
                                                 const sif::Descriptor& partition);

}  // namespace postern::seal
