#include "frontend/squashfs/block_cache.h"

#include <bit>
#include <cerrno>
#include <new>

#include <sys/mman.h>

#include "protocol/base/check.h"

namespace postern::squashfs {
namespace {

// Address space that costs memory only where it is written.
std::byte* reserve(std::size_t bytes) noexcept {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

}  // namespace

std::span<const std::byte> BlockCache::Pin::bytes() const noexcept {
  return {slot_->bytes, slot_->size};
}

std::uint32_t BlockCache::Pin::note() const noexcept {
  return slot_->note;
}

void BlockCache::Pin::release() noexcept {
  if (slot_ != nullptr) {
    cache_->unpin(slot_, cold_);
    slot_ = nullptr;
  }
}

BlockCache::BlockCache(std::size_t slot_bytes, std::size_t slots) noexcept
    : slot_bytes_(slot_bytes), slot_count_(slots) {
  const std::size_t buckets = std::bit_ceil(slots * 2);
  slots_.reset(new (std::nothrow) Slot[slots]);
  buckets_.reset(new (std::nothrow) Slot* [buckets] {});
  if (slots_ == nullptr || buckets_ == nullptr) {
    errno = ENOMEM;
    return;
  }
  bucket_mask_ = buckets - 1;
  arena_ = reserve(slot_bytes * slots);
  if (arena_ == nullptr) {
    return;
  }
  for (std::size_t i = 0; i < slots; ++i) {
    slots_[i].bytes = arena_ + i * slot_bytes;
    put_newest(&slots_[i]);  // the first is taken first, so that a small image uses few pages
  }
}

BlockCache::~BlockCache() {
  if (arena_ != nullptr) {
    ::munmap(arena_, slot_bytes_ * slot_count_);
  }
}

BlockCache::Slot** BlockCache::bucket_of(const BlockKey& key) noexcept {
  // Fibonacci hashing: positions of neighbouring blocks differ in their low bits.
  const std::uint64_t mixed =
      (key.position ^ (std::uint64_t{key.word} << 40)) * 0x9e3779b97f4a7c15U;
  return &buckets_[(mixed >> 32) & bucket_mask_];
}

BlockCache::Slot* BlockCache::find(const BlockKey& key) noexcept {
  Slot* slot = *bucket_of(key);
  while (slot != nullptr && !(slot->key == key)) {
    slot = slot->next_in_bucket;
  }
  return slot;
}

void BlockCache::unhash(Slot* slot) noexcept {
  if (!slot->hashed) {
    return;
  }
  Slot** link = bucket_of(slot->key);
  while (*link != slot) {
    link = &(*link)->next_in_bucket;
  }
  *link = slot->next_in_bucket;
  slot->hashed = false;
}

void BlockCache::take_from_list(Slot* slot) noexcept {
  (slot->newer != nullptr ? slot->newer->older : newest_) = slot->older;
  (slot->older != nullptr ? slot->older->newer : oldest_) = slot->newer;
  slot->newer = slot->older = nullptr;
}

void BlockCache::put_newest(Slot* slot) noexcept {
  slot->older = newest_;
  slot->newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = slot;
  newest_ = slot;
}

void BlockCache::put_oldest(Slot* slot) noexcept {
  slot->newer = oldest_;
  slot->older = nullptr;
  (oldest_ != nullptr ? oldest_->older : newest_) = slot;
  oldest_ = slot;
}

// Every slot is pinned: a block of its own, gone when it is released. There are at most as many as
// the threads can hold, so this cannot grow without bound.
BlockCache::Slot* BlockCache::spill() noexcept {
  Slot* slot = new (std::nothrow) Slot;
  if (slot == nullptr) {
    return nullptr;
  }
  slot->bytes = reserve(slot_bytes_);
  if (slot->bytes == nullptr) {
    delete slot;
    return nullptr;
  }
  slot->spilled = true;
  return slot;
}

Read<BlockCache::Pin> BlockCache::get(const BlockKey& key, Decoder& decoder) noexcept {
  Slot* slot = nullptr;
  bool mine = false;
  {
    const std::lock_guard lock(mutex_);
    slot = find(key);
    if (slot != nullptr) {
      if (slot->pins++ == 0) {
        take_from_list(slot);
      }
    } else {
      mine = true;
      slot = oldest_ != nullptr ? oldest_ : spill();
      if (slot == nullptr) {
        return Errno{ENOMEM};
      }
      if (slot == oldest_) {
        take_from_list(slot);
        unhash(slot);
      }
      slot->key = key;
      slot->pins = 1;
      slot->state.store(kDecoding, std::memory_order_relaxed);
      Slot** bucket = bucket_of(key);
      slot->next_in_bucket = *bucket;
      *bucket = slot;
      slot->hashed = true;
    }
  }
  Pin pin(this, slot);
  if (mine) {
    finish(slot, decoder.decode(key, {slot->bytes, slot_bytes_}));
  } else {
    slot->state.wait(kDecoding, std::memory_order_acquire);
  }
  if (slot->state.load(std::memory_order_acquire) == kFailed) {
    return Errno{slot->error};
  }
  return pin;
}

bool BlockCache::contains(const BlockKey& key) noexcept {
  const std::lock_guard lock(mutex_);
  return find(key) != nullptr;
}

void BlockCache::finish(Slot* slot, Read<Decoded> decoded) noexcept {
  if (decoded) {
    POSTERN_CHECK(decoded->size <= slot_bytes_);
    slot->size = decoded->size;
    slot->note = decoded->note;
    slot->state.store(kReady, std::memory_order_release);
  } else {
    // Not kept: the next reader tries again (memory may be back, a disk may have recovered).
    const std::lock_guard lock(mutex_);
    unhash(slot);
    slot->error = decoded.error().number;
    slot->state.store(kFailed, std::memory_order_release);
  }
  slot->state.notify_all();
}

void BlockCache::unpin(Slot* slot, bool cold) noexcept {
  bool gone = false;
  {
    const std::lock_guard lock(mutex_);
    if (--slot->pins > 0) {
      return;
    }
    if (slot->spilled) {
      unhash(slot);
      gone = true;
    } else if (cold || !slot->hashed) {
      put_oldest(slot);
    } else {
      put_newest(slot);
    }
  }
  if (gone) {
    ::munmap(slot->bytes, slot_bytes_);
    delete slot;
  }
}

}  // namespace postern::squashfs
