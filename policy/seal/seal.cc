#include "policy/seal/seal.h"

#include <algorithm>

#include "policy/json/strict.h"
#include "policy/sif/bytes.h"
#include "policy/text/hex.h"

namespace postern::seal {
namespace {

using json::Value;
using sif::Descriptor;
using sif::Image;

// struct verity_sb, little endian: offsets.
constexpr std::size_t kSignatureAt = 0;    // "verity" NUL NUL
constexpr std::size_t kVersionAt = 8;      // u32: 1
constexpr std::size_t kHashTypeAt = 12;    // u32: 1 = salt in front
constexpr std::size_t kUuidAt = 16;        // 16
constexpr std::size_t kAlgorithmAt = 32;   // 32, NUL padded
constexpr std::size_t kDataBlockAt = 64;   // u32: bytes
constexpr std::size_t kHashBlockAt = 68;   // u32: bytes
constexpr std::size_t kDataBlocksAt = 72;  // u64
constexpr std::size_t kSaltSizeAt = 80;    // u16, then 6 of padding
constexpr std::size_t kSaltAt = 88;        // 256, then 168 of padding
constexpr std::string_view kSignature{"verity\0\0", 8};
constexpr std::string_view kAlgorithm = "sha256";

Problem malformed(const std::string& what) {
  return Problem{"seal: " + what};
}

Outcome<std::uint64_t> number(const Value& root, std::string_view name, std::uint64_t most) {
  const Value* value = root.find(name, Value::Kind::kUnsigned);
  if (value == nullptr || value->number > most) {
    return malformed("'" + std::string(name) + "' is missing or out of bounds");
  }
  return value->number;
}

Outcome<std::vector<std::uint8_t>> hex_member(const Value& root,
                                              std::string_view name,
                                              std::size_t least,
                                              std::size_t most) {
  const Value* value = root.find(name, Value::Kind::kString);
  auto out = value != nullptr ? text::from_hex(value->text) : std::nullopt;
  if (!out || out->size() < least || out->size() > most || text::to_hex(*out) != value->text) {
    return malformed("'" + std::string(name) +
                     "' is missing, not lower-case hexadecimal or of the wrong length");
  }
  return *std::move(out);
}

std::uint32_t lowest_id(const std::vector<const Descriptor*>& group) {
  std::uint32_t lowest = UINT32_MAX;
  for (const Descriptor* member : group) {
    lowest = std::min(lowest, member->id);
  }
  return lowest;
}

// The one object of the group with this id.
const Descriptor* member(const std::vector<const Descriptor*>& group, std::uint32_t id) {
  const Descriptor* found = nullptr;
  for (const Descriptor* candidate : group) {
    if (candidate->id == id) {
      if (found != nullptr) {
        return nullptr;
      }
      found = candidate;
    }
  }
  return found;
}

constexpr std::uint64_t kMaxSealBytes = 4096;

// Does the seal's tree belong to the partition, and is it where a tree can be?
Outcome<Found> bind(const Image& image,
                    Snapshot& bytes,
                    const Descriptor& partition,
                    const Descriptor& seal_object,
                    const SealText& text,
                    const std::vector<const Descriptor*>& group) {
  if (partition.size < 0 ||
      static_cast<std::uint64_t>(partition.size) != text.data_blocks * kBlockBytes) {
    return malformed("made for a partition of " + std::to_string(text.data_blocks * kBlockBytes) +
                     " bytes, this one has " + std::to_string(partition.size));
  }
  const Descriptor* tree = member(group, lowest_id(group) + text.tree_relative_id);
  if (tree == nullptr || tree->type != sif::DataType::kGeneric || tree->name != kTreeName) {
    return malformed("there is no hash tree of this seal in its group");
  }
  POSTERN_TRY_ASSIGN(const sif::Extent extent, image.extent_of(*tree));
  if (extent.offset % kBlockBytes != 0 ||
      extent.bytes != kBlockBytes + tree_bytes(text.data_blocks)) {
    return malformed("the hash tree is not aligned to 4096 bytes, or not as large as it must be");
  }
  POSTERN_TRY_ASSIGN(const std::span<const std::uint8_t> superblock,
                     bytes.fetch({.offset = extent.offset, .bytes = kSuperblockBytes},
                                 "reading the seal's superblock"));
  POSTERN_TRY(check_superblock(superblock.first<kSuperblockBytes>(), text));
  Found out;
  out.seal_object = seal_object.id;
  out.tree_object = tree->id;
  out.geometry.salt_bytes = static_cast<std::uint32_t>(text.salt.size());
  out.geometry.data_blocks = text.data_blocks;
  out.geometry.tree_offset = extent.offset + kBlockBytes;
  out.geometry.tree_bytes = extent.bytes - kBlockBytes;
  out.geometry.root_hash = text.root_hash;
  std::copy(text.salt.begin(), text.salt.end(), out.geometry.salt.begin());
  return out;
}

}  // namespace

std::vector<std::uint64_t> level_blocks(std::uint64_t data_blocks) {
  std::vector<std::uint64_t> out;
  for (std::uint64_t below = data_blocks; below > 1;) {
    below = (below + kHashesPerBlock - 1) / kHashesPerBlock;
    out.push_back(below);
  }
  return out;
}

std::uint64_t tree_bytes(std::uint64_t data_blocks) {
  std::uint64_t blocks = 0;
  for (const std::uint64_t level : level_blocks(data_blocks)) {
    blocks += level;
  }
  return blocks * kBlockBytes;
}

Outcome<SealText> parse_seal(std::string_view text) {
  auto root = json::parse(text, {.bytes = kMaxSealBytes, .depth = 2});
  if (!root) {
    return malformed(root.error().what);
  }
  if (root->kind != Value::Kind::kObject) {
    return malformed("not a JSON object");
  }
  POSTERN_TRY_ASSIGN(const std::uint64_t version, number(*root, "version", UINT32_MAX));
  const Value* algorithm = root->find("algorithm", Value::Kind::kString);
  POSTERN_TRY_ASSIGN(const std::uint64_t block, number(*root, "blockSize", UINT32_MAX));
  if (version != 1 || algorithm == nullptr || algorithm->text != kAlgorithm ||
      block != kBlockBytes) {
    return malformed("of a version, algorithm or block size that is not known");
  }
  SealText out;
  POSTERN_TRY_ASSIGN(const std::uint64_t id, number(*root, "relativeId", UINT32_MAX));
  POSTERN_TRY_ASSIGN(const std::uint64_t tree, number(*root, "treeRelativeId", UINT32_MAX));
  out.relative_id = static_cast<std::uint32_t>(id);
  out.tree_relative_id = static_cast<std::uint32_t>(tree);
  POSTERN_TRY_ASSIGN(out.data_blocks, number(*root, "dataBlocks", kMaxDataBlocks));
  POSTERN_TRY_ASSIGN(out.salt, hex_member(*root, "salt", 0, kSaltBytes));
  POSTERN_TRY_ASSIGN(const std::vector<std::uint8_t> hash,
                     hex_member(*root, "rootHash", kHashBytes, kHashBytes));
  std::copy(hash.begin(), hash.end(), out.root_hash.begin());
  if (out.data_blocks == 0) {
    return malformed("'dataBlocks' is 0");
  }
  return out;
}

std::string write_seal(const SealText& seal) {
  return R"({"version":1,"relativeId":)" + std::to_string(seal.relative_id) +
         R"(,"treeRelativeId":)" + std::to_string(seal.tree_relative_id) +
         R"(,"algorithm":"sha256","blockSize":4096,"dataBlocks":)" +
         std::to_string(seal.data_blocks) + R"(,"rootHash":")" + text::to_hex(seal.root_hash) +
         R"(","salt":")" + text::to_hex(seal.salt) + "\"}";
}

std::array<std::uint8_t, kSuperblockBytes> write_superblock(
    const SealText& seal, std::span<const std::uint8_t, 16> uuid) {
  std::array<std::uint8_t, kSuperblockBytes> out{};
  const auto put = [&](std::size_t at, const auto& from) {
    std::copy(from.begin(), from.end(), out.begin() + static_cast<std::ptrdiff_t>(at));
  };
  put(kSignatureAt, kSignature);
  sif::store<std::uint32_t>(out, kVersionAt, 1);
  sif::store<std::uint32_t>(out, kHashTypeAt, 1);
  put(kUuidAt, uuid);
  put(kAlgorithmAt, kAlgorithm);
  sif::store<std::uint32_t>(out, kDataBlockAt, kBlockBytes);
  sif::store<std::uint32_t>(out, kHashBlockAt, kBlockBytes);
  sif::store<std::uint64_t>(out, kDataBlocksAt, seal.data_blocks);
  sif::store<std::uint16_t>(out, kSaltSizeAt, static_cast<std::uint16_t>(seal.salt.size()));
  put(kSaltAt, seal.salt);
  return out;
}

Outcome<> check_superblock(std::span<const std::uint8_t, kSuperblockBytes> superblock,
                           const SealText& seal) {
  // Padding included: whatever this reader does not know could mean something to another one.
  const auto wanted = write_superblock(seal, superblock.subspan<kUuidAt, 16>());
  if (!std::equal(superblock.begin(), superblock.end(), wanted.begin())) {
    return malformed("the hash tree's superblock differs from the seal");
  }
  return Ok{};
}

Outcome<std::optional<Found>> find(const Image& image,
                                   Snapshot& bytes,
                                   const Descriptor& partition) {
  std::optional<Found> out;
  const std::vector<const Descriptor*> group = image.group(partition.group);
  for (const Descriptor* object : group) {
    if (object->type != sif::DataType::kGenericJson || object->name != kSealName) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const std::string json,
                       sif::read_object(bytes, image, *object, kMaxSealBytes));
    POSTERN_TRY_ASSIGN(const SealText text, parse_seal(json));
    if (member(group, lowest_id(group) + text.relative_id) != &partition) {
      continue;
    }
    if (out) {
      return malformed("object " + std::to_string(partition.id) + " is sealed twice");
    }
    POSTERN_TRY_ASSIGN(out, bind(image, bytes, partition, *object, text, group));
  }
  return out;
}

Outcome<std::optional<VerityGeometry>> find_seal(const Image& image,
                                                 Snapshot& bytes,
                                                 const Descriptor& partition) {
  POSTERN_TRY_ASSIGN(const std::optional<Found> found, find(image, bytes, partition));
  return found ? std::optional(found->geometry) : std::nullopt;
}

}  // namespace postern::seal
