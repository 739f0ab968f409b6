#include "policy/seal/tree.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <openssl/evp.h>
#include <unistd.h>

#include "policy/sif/read_exactly.h"

namespace postern::seal {
namespace {

using Hash = std::array<std::uint8_t, kHashBytes>;

class BlockHasher {
 public:
  explicit BlockHasher(std::span<const std::uint8_t> salt)
      : salt_(salt), context_(EVP_MD_CTX_new()) {
    POSTERN_CHECK(context_ != nullptr &&
                  EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }

  void hash(const std::uint8_t* block, std::uint8_t* out) {
    // Without a type the algorithm that is already there starts again, without looking it up.
    POSTERN_CHECK(EVP_DigestInit_ex(context_.get(), nullptr, nullptr) == 1 &&
                  EVP_DigestUpdate(context_.get(), salt_.data(), salt_.size()) == 1 &&
                  EVP_DigestUpdate(context_.get(), block, kBlockBytes) == 1 &&
                  EVP_DigestFinal_ex(context_.get(), out, nullptr) == 1);
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };

  std::span<const std::uint8_t> salt_;
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

// One level: `blocks` blocks at `from` are hashed into hash blocks at `to`.
struct Level {
  std::uint64_t from;
  std::uint64_t blocks;
  std::uint64_t to;
};

// Leaves first. In the file the top level comes first.
std::vector<Level> levels_of(const TreePlace& place) {
  const std::vector<std::uint64_t> sizes = level_blocks(place.data_blocks);
  std::vector<Level> out;
  std::uint64_t end = place.tree_offset + tree_bytes(place.data_blocks);
  std::uint64_t from = place.data_offset;
  std::uint64_t blocks = place.data_blocks;
  for (const std::uint64_t size : sizes) {
    end -= size * kBlockBytes;
    out.push_back({from, blocks, end});
    from = end;
    blocks = size;
  }
  return out;
}

Outcome<> write_exactly(int fd, std::uint64_t offset, std::span<const std::uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put <= 0) {
      return system_problem("writing the hash tree", errno);
    }
    offset += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return Ok{};
}

// Blocks whose hashes fill 32 hash blocks: 16 MiB of a level below, read in pieces of 512 KiB.
constexpr std::uint64_t kUnitBlocks = 32 * kHashesPerBlock;
constexpr std::size_t kReadBlocks = kHashesPerBlock;

class LevelWork {
 public:
  LevelWork(int fd,
            const TreePlace& place,
            const Level& level,
            bool write,
            bool counts,
            const TreeProgress& progress)
      : fd_(fd),
        place_(place),
        level_(level),
        write_(write),
        counts_(counts),
        progress_(progress) {}

  Outcome<> run(unsigned threads) {
    const std::uint64_t units = (level_.blocks + kUnitBlocks - 1) / kUnitBlocks;
    std::vector<std::jthread> helpers;
    for (std::uint64_t i = 1; i < std::min<std::uint64_t>(threads, units); ++i) {
      helpers.emplace_back([this] { loop(); });
    }
    loop();
    helpers.clear();  // joins
    if (failed_) {
      return std::move(problem_);
    }
    return Ok{};
  }

 private:
  void loop() {
    BlockHasher hasher(place_.salt);
    std::vector<std::uint8_t> data(kReadBlocks * kBlockBytes);
    std::vector<std::uint8_t> hashes;
    std::vector<std::uint8_t> stored;
    for (std::uint64_t first = next_.fetch_add(kUnitBlocks); first < level_.blocks && !failed_;
         first = next_.fetch_add(kUnitBlocks)) {
      const std::uint64_t count = std::min(kUnitBlocks, level_.blocks - first);
      auto done = hash_unit(hasher, first, count, data, hashes);
      if (done) {
        done = write_ ? write_exactly(fd_, place_of(first), hashes)
                      : compare(first, count, hashes, stored);
      }
      if (!done) {
        const std::lock_guard lock(mutex_);
        if (!failed_.exchange(true)) {
          problem_ = std::move(done).error();
        }
      }
    }
  }

  // Where the hashes of block `first` of this level are: a unit begins a hash block.
  [[nodiscard]] std::uint64_t place_of(std::uint64_t first) const {
    return level_.to + first / kHashesPerBlock * kBlockBytes;
  }

  Outcome<> hash_unit(BlockHasher& hasher,
                      std::uint64_t first,
                      std::uint64_t count,
                      std::vector<std::uint8_t>& data,
                      std::vector<std::uint8_t>& hashes) {
    // The last hash block of a level is filled with zeros.
    hashes.assign((count + kHashesPerBlock - 1) / kHashesPerBlock * kBlockBytes, 0);
    for (std::uint64_t done = 0; done < count && !failed_;) {
      const auto now = static_cast<std::size_t>(std::min<std::uint64_t>(kReadBlocks, count - done));
      POSTERN_TRY(sif::read_exactly(fd_, level_.from + (first + done) * kBlockBytes,
                                    std::span(data).first(now * kBlockBytes), "reading the image"));
      for (std::size_t i = 0; i < now; ++i) {
        hasher.hash(&data[i * kBlockBytes], &hashes[(done + i) * kHashBytes]);
      }
      done += now;
      if (counts_ && progress_) {
        const std::lock_guard lock(mutex_);
        progress_(now * kBlockBytes);
      }
    }
    return Ok{};
  }

  Outcome<> compare(std::uint64_t first,
                    std::uint64_t count,
                    const std::vector<std::uint8_t>& hashes,
                    std::vector<std::uint8_t>& stored) const {
    stored.resize(hashes.size());
    POSTERN_TRY(sif::read_exactly(fd_, place_of(first), stored, "reading the hash tree"));
    const auto differ = std::mismatch(hashes.begin(), hashes.end(), stored.begin()).first;
    if (differ == hashes.end()) {
      return Ok{};
    }
    const std::uint64_t index = static_cast<std::uint64_t>(differ - hashes.begin()) / kHashBytes;
    if (index >= count) {
      return Problem{"the hash tree is not padded with zeros"};
    }
    return Problem{"block " + std::to_string(first + index) +
                   (counts_ ? " of the partition" : " of a level of the hash tree") + " (at byte " +
                   std::to_string(level_.from + (first + index) * kBlockBytes) +
                   " of the file) differs from its seal"};
  }

  int fd_;
  const TreePlace& place_;
  const Level& level_;
  bool write_;
  bool counts_;  // the data itself: for the progress
  const TreeProgress& progress_;
  std::atomic<std::uint64_t> next_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  Problem problem_;
};

Outcome<Hash> walk(
    int fd, const TreePlace& place, bool write, const TreeProgress& progress, unsigned threads) {
  POSTERN_CHECK(place.data_blocks >= 1 && place.data_blocks <= kMaxDataBlocks);
  const unsigned processors =
      threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  const std::vector<Level> levels = levels_of(place);
  for (std::size_t i = 0; i < levels.size(); ++i) {
    POSTERN_TRY(LevelWork(fd, place, levels[i], write, i == 0, progress).run(processors));
  }
  // The root hash is that of the top hash block, or of the only data block.
  std::array<std::uint8_t, kBlockBytes> top{};
  POSTERN_TRY(sif::read_exactly(fd, levels.empty() ? place.data_offset : place.tree_offset, top,
                                "reading the hash tree"));
  if (levels.empty() && progress) {
    progress(kBlockBytes);
  }
  Hash root{};
  BlockHasher(place.salt).hash(top.data(), root.data());
  return root;
}

}  // namespace

Outcome<Hash> build_tree(int fd,
                         const TreePlace& place,
                         const TreeProgress& progress,
                         unsigned threads) {
  return walk(fd, place, /*write=*/true, progress, threads);
}

Outcome<> check_tree(int fd,
                     const TreePlace& place,
                     std::span<const std::uint8_t, kHashBytes> root_hash,
                     const TreeProgress& progress,
                     unsigned threads) {
  POSTERN_TRY_ASSIGN(const Hash root, walk(fd, place, /*write=*/false, progress, threads));
  if (!std::equal(root.begin(), root.end(), root_hash.begin())) {
    return Problem{"the hash tree's root differs from the seal"};
  }
  return Ok{};
}

}  // namespace postern::seal
