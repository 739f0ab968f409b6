#include <cstring>
#include <utility>

#include <sys/mman.h>

#include "policy/crypt/luks_header.h"

namespace postern::crypt {

SecretBytes::SecretBytes(std::size_t size) : size_(size), mapped_((size + 4095) / 4096 * 4096) {
  if (size == 0) {
    mapped_ = 0;
    return;
  }
  void* memory =
      ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  POSTERN_CHECK(memory != MAP_FAILED);
  // mlock(2) fails beyond RLIMIT_MEMLOCK: a start must not fail for that, and MADV_DONTDUMP with
  // the wipe below still hold. Swap is then the site's to encrypt (postern-security(7)).
  (void)::mlock(memory, mapped_);
  (void)::madvise(memory, mapped_, MADV_DONTDUMP);
  (void)::madvise(memory, mapped_, MADV_DONTFORK);
  data_ = static_cast<std::byte*>(memory);
}

SecretBytes::SecretBytes(SecretBytes&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

SecretBytes& SecretBytes::operator=(SecretBytes&& other) noexcept {
  if (this != &other) {
    wipe();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    mapped_ = std::exchange(other.mapped_, 0);
  }
  return *this;
}

SecretBytes::~SecretBytes() {
  wipe();
}

const char* SecretBytes::chars() const noexcept {
  // SAFETY: char may alias any object (basic.lval).
  return reinterpret_cast<const char*>(data_);
}

void SecretBytes::truncate(std::size_t size) noexcept {
  if (size < size_) {
    ::explicit_bzero(data_ + size, size_ - size);
    size_ = size;
  }
}

void SecretBytes::wipe() noexcept {
  if (data_ != nullptr) {
    ::explicit_bzero(data_, mapped_);
    (void)::munmap(data_, mapped_);
    data_ = nullptr;
    size_ = mapped_ = 0;
  }
}

}  // namespace postern::crypt
