// SHA256_Init and its like are deprecated in favour of EVP, which takes a millisecond to set up and
// allocates for every hash; they use the same code, SHA instructions included.
#define OPENSSL_SUPPRESS_DEPRECATED

#include "frontend/squashfs/verity.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include <openssl/sha.h>
#include <unistd.h>

namespace postern::squashfs {
namespace {

constexpr std::uint64_t kHashesOfBlock = kSealedBlockBytes / kHashBytes;
// 1 MiB of tree: 128 MiB of data around what is being read.
constexpr std::size_t kTreeSlots = 256;
constexpr std::uint64_t kTreeBit = std::uint64_t{1} << 63;
// 2^56 bytes of data; what keeps every product below in 64 bits.
constexpr std::uint64_t kMaxDataBlocks = std::uint64_t{1} << 44;

Read<> read_exactly(int file, std::uint64_t offset, std::span<std::byte> out) noexcept {
  while (!out.empty()) {
    const ssize_t got = ::pread(file, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return Errno{EIO};
    }
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return Ok{};
}

}  // namespace

struct Verity::Salted {
  SHA256_CTX context;
};

Verity::Verity(int image, const Seal& seal) noexcept
    : image_(image), seal_(seal), tree_(kSealedBlockBytes, kTreeSlots) {
  auto* salted = new (std::nothrow) Salted;
  if (salted != nullptr) {
    SHA256_Init(&salted->context);
    SHA256_Update(&salted->context, seal.salt.data(), seal.salt.size());
    salted_.reset(salted);
  }
}

Outcome<std::unique_ptr<Verity>> Verity::make(int image, const Seal& seal) noexcept {
  if (seal.data_blocks == 0 || seal.data_blocks > kMaxDataBlocks ||
      seal.salt.size() > kMaxSaltBytes) {
    return Problem{.what = "the image's seal covers an impossible number of blocks",
                   .cure = "seal the image again"};
  }
  std::unique_ptr<Verity> verity(new (std::nothrow) Verity(image, seal));
  if (verity == nullptr || !verity->tree_.valid() || verity->salted_ == nullptr) {
    return system_problem("reserving memory for the image's hash tree", ENOMEM);
  }
  // Level 0 hashes the data, each further one the level below, until one block is left. On disk the
  // last level comes first (drivers/md/dm-verity-target.c, verity_ctr).
  for (std::uint64_t below = seal.data_blocks; below > 1;) {
    below = (below + kHashesOfBlock - 1) / kHashesOfBlock;
    verity->levels_.push_back({0, below});
  }
  std::uint64_t next = 0;
  for (auto level = verity->levels_.rbegin(); level != verity->levels_.rend(); ++level) {
    level->start = next;
    next += level->blocks;
  }
  if (seal.tree_bytes < next * kSealedBlockBytes) {
    return Problem{.what = "the image's hash tree of " + std::to_string(seal.tree_bytes) +
                           " bytes is too short for " + std::to_string(seal.data_blocks) +
                           " blocks",
                   .cure = "seal the image again"};
  }
  return verity;
}

Verity::Hash Verity::hash(std::span<const std::byte> block) const noexcept {
  SHA256_CTX context = salted_->context;
  Hash result;
  SHA256_Update(&context, block.data(), block.size());
  SHA256_Final(result.data(), &context);
  return result;
}

// The hash that block `number` of the level below `level` must have: the root's, or an entry of a
// tree block that was checked.
Read<Verity::Hash> Verity::expected(std::size_t level, std::uint64_t number) noexcept {
  if (level == levels_.size()) {
    return seal_.root;
  }
  const BlockKey key{number / kHashesOfBlock, static_cast<std::uint32_t>(level)};
  POSTERN_TRY_ASSIGN(const BlockCache::Pin pin, tree_.get(key, *this));
  Hash hash;
  std::memcpy(hash.data(), pin.bytes().data() + number % kHashesOfBlock * kHashBytes, kHashBytes);
  return hash;
}

// Reads and checks a tree block. Calls itself through expected() once a level: eight times at most.
Read<BlockCache::Decoded> Verity::decode(const BlockKey& key, std::span<std::byte> slot) noexcept {
  const std::size_t level = key.word;
  const std::uint64_t block = levels_[level].start + key.position;
  POSTERN_TRY(read_exactly(image_, seal_.tree_offset + block * kSealedBlockBytes,
                           slot.first(kSealedBlockBytes)));
  POSTERN_TRY_ASSIGN(const Hash wanted, expected(level + 1, key.position));
  if (hash(slot.first(kSealedBlockBytes)) != wanted) {
    remember(true, block);
    return Errno{EIO};
  }
  return BlockCache::Decoded{kSealedBlockBytes, 0};
}

Read<> Verity::check(std::uint64_t number, std::span<const std::byte> bytes) noexcept {
  if (number >= seal_.data_blocks) {
    return Errno{EIO};
  }
  POSTERN_TRY_ASSIGN(const Hash wanted, expected(0, number));
  if (hash(bytes) != wanted) {
    remember(false, number);
    return Errno{EIO};
  }
  return Ok{};
}

void Verity::remember(bool tree, std::uint64_t number) noexcept {
  std::uint64_t none = 0;
  if (bad_.compare_exchange_strong(none, (number + 1) | (tree ? kTreeBit : 0)) &&
      report_ != nullptr) {
    report_(complaint());
  }
}

std::string Verity::complaint() const {
  const std::uint64_t bad = bad_.load();
  if (bad == 0) {
    return {};
  }
  const std::uint64_t number = (bad & ~kTreeBit) - 1;
  return ((bad & kTreeBit) != 0 ? "block " + std::to_string(number) + " of the image's hash tree"
                                : "block " + std::to_string(number) + " of the image") +
         " does not match its seal (the file was changed after it was sealed, or the disk is bad; "
         "reads of it gave an I/O error)";
}

}  // namespace postern::squashfs
