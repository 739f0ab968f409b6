#include "policy/seal/add.h"

#include <algorithm>
#include <cerrno>

#include <sys/random.h>

#include <unistd.h>

namespace postern::seal {
namespace {

Outcome<> fill_random(std::span<std::uint8_t> out) {
  // getrandom(2): up to 256 bytes are never cut short.
  if (::getrandom(out.data(), out.size(), 0) != static_cast<ssize_t>(out.size())) {
    return system_problem("getting random bytes", errno);
  }
  return Ok{};
}

std::uint32_t lowest_id(const std::vector<sif::Descriptor>& all, std::uint32_t group) {
  std::uint32_t lowest = UINT32_MAX;
  for (const sif::Descriptor& descriptor : all) {
    if (descriptor.group == group) {
      lowest = std::min(lowest, descriptor.id);
    }
  }
  return lowest;
}

Outcome<> write_superblock_at(int fd, std::uint64_t offset, const SealText& text) {
  std::array<std::uint8_t, 16> uuid{};
  POSTERN_TRY(fill_random(uuid));
  uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);  // RFC 4122: version 4
  uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);
  std::array<std::uint8_t, kBlockBytes> block{};
  const auto superblock = write_superblock(text, uuid);
  std::copy(superblock.begin(), superblock.end(), block.begin());
  if (::pwrite(fd, block.data(), block.size(), static_cast<off_t>(offset)) !=
      static_cast<ssize_t>(block.size())) {
    return system_problem("writing the seal", errno);
  }
  return Ok{};
}

}  // namespace

Outcome<> add_seal(sif::Writer& writer,
                   const sif::Descriptor& partition,
                   const TreeProgress& progress) {
  const std::string name = "object " + std::to_string(partition.id);
  if (partition.group == 0) {
    return Problem{name + " is in no group, so that a signature could not cover its seal"};
  }
  if (partition.size <= 0 || partition.offset < 0 ||
      partition.size % static_cast<std::int64_t>(kBlockBytes) != 0) {
    return Problem{
        name + " has " + std::to_string(partition.size) +
            " bytes, which is not a whole number of 4096-byte blocks, so that it cannot be sealed",
        "build the image with a padded squashfs (mksquashfs without -nopad)"};
  }
  SealText text;
  text.data_blocks = static_cast<std::uint64_t>(partition.size) / kBlockBytes;
  text.salt.resize(kSaltBytes);
  POSTERN_TRY(fill_random(text.salt));
  sif::ObjectInput tree;
  tree.type = sif::DataType::kGeneric;
  tree.name = kTreeName;
  tree.group = partition.group;
  tree.link = partition.id;
  tree.alignment = static_cast<std::int64_t>(kBlockBytes);
  POSTERN_TRY_ASSIGN(const std::uint64_t offset, writer.begin(tree));
  const TreePlace place{.data_offset = static_cast<std::uint64_t>(partition.offset),
                        .data_blocks = text.data_blocks,
                        .tree_offset = offset + kBlockBytes,
                        .salt = text.salt};
  POSTERN_TRY(write_superblock_at(writer.fd(), offset, text));
  POSTERN_TRY_ASSIGN(text.root_hash, build_tree(writer.fd(), place, progress));
  POSTERN_TRY_ASSIGN(const std::uint32_t tree_id,
                     writer.end(kBlockBytes + tree_bytes(text.data_blocks)));
  const std::uint32_t lowest = lowest_id(writer.descriptors(), partition.group);
  text.relative_id = partition.id - lowest;
  text.tree_relative_id = tree_id - lowest;
  sif::ObjectInput json;
  json.type = sif::DataType::kGenericJson;
  json.name = kSealName;
  json.group = partition.group;
  json.link = partition.id;
  POSTERN_TRY(writer.add(json, write_seal(text)));
  return Ok{};
}

}  // namespace postern::seal
