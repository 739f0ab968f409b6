#include "policy/seal/cover.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <vector>

// SHA256_* are deprecated for programs that want a choice of providers. Here they keep all of
// OpenSSL but this one function out of the programs that check a seal.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "policy/seal/seal.h"

namespace postern::seal {
namespace {

using Hash = std::array<std::uint8_t, kHashBytes>;

Problem differs() {
  return Problem{"seal: the partition or its hash tree differs from the root hash",
                 "if the image was changed on purpose, seal and sign it again: postern sign"};
}

Hash hash_of(const VerityGeometry& seal, std::span<const std::uint8_t> block) {
  Hash out;
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, seal.salt.data(), seal.salt_bytes);
  SHA256_Update(&context, block.data(), block.size());
  SHA256_Final(out.data(), &context);
  return out;
}

// `count` blocks of one level, from number `first` on, where the level begins at `offset`.
Outcome<std::vector<Hash>> hash_blocks(Snapshot& bytes,
                                       const VerityGeometry& seal,
                                       std::uint64_t offset,
                                       std::uint64_t first,
                                       std::uint64_t count) {
  POSTERN_TRY_ASSIGN(
      const std::span<const std::uint8_t> blocks,
      bytes.fetch({.offset = offset + first * kBlockBytes, .bytes = count * kBlockBytes},
                  "reading a sealed partition"));
  std::vector<Hash> out;
  for (std::uint64_t i = 0; i < count; ++i) {
    out.push_back(hash_of(seal, blocks.subspan(i * kBlockBytes, kBlockBytes)));
  }
  return out;
}

}  // namespace

Outcome<> check_covered(Snapshot& bytes,
                        const VerityGeometry& seal,
                        const Extent& partition,
                        const Extent& part) {
  POSTERN_CHECK(part.bytes > 0 && part.offset >= partition.offset &&
                part.offset + part.bytes <= partition.offset + partition.bytes);
  if (partition.bytes != seal.data_blocks * kBlockBytes) {
    return Problem{"seal: made for more or less than the file system"};
  }
  std::uint64_t first = (part.offset - partition.offset) / kBlockBytes;
  std::uint64_t last = (part.offset + part.bytes - 1 - partition.offset) / kBlockBytes;
  POSTERN_TRY_ASSIGN(std::vector<Hash> hashes,
                     hash_blocks(bytes, seal, partition.offset, first, last - first + 1));
  // In the file the top level comes first.
  std::uint64_t level_at = seal.tree_offset + seal.tree_bytes;
  for (const std::uint64_t blocks : level_blocks(seal.data_blocks)) {
    level_at -= blocks * kBlockBytes;
    const std::uint64_t first_block = first / kHashesPerBlock;
    const std::uint64_t last_block = last / kHashesPerBlock;
    const Extent stored{.offset = level_at + first_block * kBlockBytes,
                        .bytes = (last_block - first_block + 1) * kBlockBytes};
    POSTERN_TRY_ASSIGN(const std::span<const std::uint8_t> tree,
                       bytes.fetch(stored, "reading the hash tree"));
    for (std::uint64_t i = first; i <= last; ++i) {
      const std::size_t at = (i - first_block * kHashesPerBlock) * kHashBytes;
      if (!std::equal(hashes[i - first].begin(), hashes[i - first].end(), &tree[at])) {
        return differs();
      }
    }
    first = first_block;
    last = last_block;
    POSTERN_TRY_ASSIGN(hashes, hash_blocks(bytes, seal, level_at, first, last - first + 1));
  }
  return hashes[0] == seal.root_hash ? Outcome<>(Ok{}) : Outcome<>(differs());
}

}  // namespace postern::seal
