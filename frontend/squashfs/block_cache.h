// Decoded blocks, shared by the threads: a block is decoded once, and a second reader of it waits
// for the first instead of decoding it again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "frontend/squashfs/read_result.h"

namespace postern::squashfs {

// Which block: where it lies in the image, and its length word. The word belongs to the identity
// because a hostile image may point at one place with two lengths.
struct BlockKey {
  std::uint64_t position = 0;
  std::uint32_t word = 0;
  friend bool operator==(const BlockKey&, const BlockKey&) = default;
};

class BlockCache {
  struct Slot;

 public:
  // A block held in memory for as long as this lives. Not to be shared between threads.
  class Pin {
   public:
    Pin() noexcept = default;

    Pin(Pin&& other) noexcept
        : cache_(std::exchange(other.cache_, nullptr)),
          slot_(std::exchange(other.slot_, nullptr)),
          cold_(other.cold_) {}

    Pin& operator=(Pin&& other) noexcept {
      if (this != &other) {
        release();
        cache_ = std::exchange(other.cache_, nullptr);
        slot_ = std::exchange(other.slot_, nullptr);
        cold_ = other.cold_;
      }
      return *this;
    }

    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;

    ~Pin() { release(); }

    [[nodiscard]] bool held() const noexcept { return slot_ != nullptr; }

    [[nodiscard]] std::span<const std::byte> bytes() const noexcept;
    // What the decoder noted beside the bytes.
    [[nodiscard]] std::uint32_t note() const noexcept;

    // The block will hardly be wanted again (the kernel has all of it in its page cache): it is
    // the next to be replaced.
    void mark_cold() noexcept { cold_ = true; }

    void release() noexcept;

   private:
    friend class BlockCache;

    Pin(BlockCache* cache, Slot* slot) noexcept : cache_(cache), slot_(slot) {}

    BlockCache* cache_ = nullptr;
    Slot* slot_ = nullptr;
    bool cold_ = false;
  };

  struct Decoded {
    std::size_t size;    // bytes written to the slot
    std::uint32_t note;  // kept beside them
  };

  // Decodes a block into the slot. Runs without a lock.
  class Decoder {
   public:
    virtual Read<Decoded> decode(const BlockKey& key, std::span<std::byte> slot) noexcept = 0;

   protected:
    ~Decoder() = default;
  };

  // Address space for `slots` blocks of at most `slot_bytes` each; memory is used as slots fill.
  BlockCache(std::size_t slot_bytes, std::size_t slots) noexcept;
  ~BlockCache();
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // False: there was no memory for it (errno).
  [[nodiscard]] bool valid() const noexcept { return arena_ != nullptr; }

  // The block of `key`, decoded by `decoder` where no thread has it yet. The decoder's error.
  Read<Pin> get(const BlockKey& key, Decoder& decoder) noexcept;
  // Whether it is there or being decoded. A hint: true may be false by the time it returns.
  bool contains(const BlockKey& key) noexcept;

 private:
  enum State : std::uint32_t { kEmpty, kDecoding, kReady, kFailed };

  struct Slot {
    BlockKey key;
    std::byte* bytes = nullptr;
    std::size_t size = 0;
    std::uint32_t note = 0;
    std::uint32_t pins = 0;
    std::atomic<std::uint32_t> state = kEmpty;
    int error = 0;
    bool hashed = false;
    bool spilled = false;  // its memory is its own, not the arena's
    Slot* newer = nullptr;
    Slot* older = nullptr;
    Slot* next_in_bucket = nullptr;
  };

  Slot** bucket_of(const BlockKey& key) noexcept;
  Slot* find(const BlockKey& key) noexcept;
  void unhash(Slot* slot) noexcept;
  void take_from_list(Slot* slot) noexcept;
  void put_newest(Slot* slot) noexcept;
  void put_oldest(Slot* slot) noexcept;
  Slot* spill() noexcept;
  void finish(Slot* slot, Read<Decoded> decoded) noexcept;
  void unpin(Slot* slot, bool cold) noexcept;

  const std::size_t slot_bytes_;
  const std::size_t slot_count_;
  std::byte* arena_ = nullptr;
  std::size_t bucket_mask_ = 0;
  std::unique_ptr<Slot[]> slots_;
  std::unique_ptr<Slot*[]> buckets_;
  std::mutex mutex_;        // everything below, and the slots' links, pins and keys
  Slot* newest_ = nullptr;  // slots that nobody has pinned
  Slot* oldest_ = nullptr;
};

}  // namespace postern::squashfs
