// Checks 4 KiB blocks of a sealed partition against its hash tree: dm-verity's format version 1,
// SHA-256, salt in front (Linux source, Documentation/admin-guide/device-mapper/verity.rst). Only
// tree blocks that were themselves checked, up to the root hash, are kept and believed.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "frontend/squashfs/block_cache.h"
#include "frontend/squashfs/read_result.h"
#include "policy/problem.h"

namespace postern::squashfs {

inline constexpr std::size_t kSealedBlockBytes = 4096;
inline constexpr std::size_t kHashBytes = 32;
inline constexpr std::size_t kMaxSaltBytes = 256;  // dm-verity's own limit

struct Seal {
  std::array<std::uint8_t, kHashBytes> root{};
  std::vector<std::uint8_t> salt;
  std::uint64_t data_blocks = 0;  // of kSealedBlockBytes, from the partition's start
  // Where the tree lies in the image file: its top block, not the superblock before it.
  std::uint64_t tree_offset = 0;
  std::uint64_t tree_bytes = 0;
};

class Verity final : private BlockCache::Decoder {
 public:
  // The problem: the tree has the wrong size for that many blocks. `image` is borrowed.
  static Outcome<std::unique_ptr<Verity>> make(int image, const Seal& seal) noexcept;

  // Whether `bytes`, kSealedBlockBytes of them, are data block `number`. EIO: they are not, or the
  // tree is damaged; the first such block is remembered.
  Read<> check(std::uint64_t number, std::span<const std::byte> bytes) noexcept;

  [[nodiscard]] std::uint64_t data_blocks() const noexcept { return seal_.data_blocks; }

  // What went wrong first, in words; empty: nothing.
  [[nodiscard]] std::string complaint() const;
  // Called once, with the complaint, by the thread that meets it, before anybody is told EIO.
  using Report = void (*)(const std::string& complaint);

  void report_to(Report report) noexcept { report_ = report; }

 private:
  Verity(int image, const Seal& seal) noexcept;

  using Hash = std::array<std::uint8_t, kHashBytes>;
  Hash hash(std::span<const std::byte> block) const noexcept;
  Read<Hash> expected(std::size_t level, std::uint64_t number) noexcept;
  Read<BlockCache::Decoded> decode(const BlockKey& key,
                                   std::span<std::byte> slot) noexcept override;
  void remember(bool tree, std::uint64_t number) noexcept;

  struct Level {
    std::uint64_t start = 0;  // first block, counted from the tree's start
    std::uint64_t blocks = 0;
  };

  const int image_;
  const Seal seal_;
  std::vector<Level> levels_;  // [0] holds the hashes of the data
  BlockCache tree_;
  struct Salted;
  std::shared_ptr<const Salted> salted_;  // SHA-256 that has read the salt
  Report report_ = nullptr;
  // Number of the first bad block + 1, with the top bit for a block of the tree; 0: none.
  std::atomic<std::uint64_t> bad_ = 0;
};

}  // namespace postern::squashfs
