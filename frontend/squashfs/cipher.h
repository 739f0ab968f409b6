// AES-256-XTS as dm-crypt does it (aes-xts-plain64): each sector on its own, its number the tweak.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "frontend/squashfs/read_result.h"
#include "policy/problem.h"

struct evp_cipher_ctx_st;
struct evp_cipher_st;

namespace postern::squashfs {

inline constexpr std::size_t kVolumeKeyBytes = 64;

// Where the ciphertext lies in the partition. Bytes; `iv_offset` counts 512-byte sectors whatever
// the sector size, as LUKS2 has it (dm-crypt without iv_large_sectors).
struct CryptGeometry {
  std::uint32_t sector = 0;  // 512 or 4096
  std::uint64_t data_offset = 0;
  std::uint64_t data_bytes = 0;
  std::uint64_t iv_offset = 0;
};

// One thread's cipher state.
class CipherContext {
 public:
  CipherContext() = default;
  ~CipherContext();
  CipherContext(const CipherContext&) = delete;
  CipherContext& operator=(const CipherContext&) = delete;

 private:
  friend class Cipher;
  evp_cipher_ctx_st* context_ = nullptr;
};

// One thread's state of AES-GCM.
class GcmContext {
 public:
  GcmContext() = default;
  ~GcmContext();
  GcmContext(const GcmContext&) = delete;
  GcmContext& operator=(const GcmContext&) = delete;

 private:
  friend class GcmCipher;
  evp_cipher_ctx_st* context_ = nullptr;
};

// AES-256-GCM with nonces of 16 bytes, as gocryptfs has it.
class GcmCipher {
 public:
  // As Cipher::make(); the key has 32 bytes.
  static Outcome<std::unique_ptr<GcmCipher>> make(int key) noexcept;
  ~GcmCipher();
  GcmCipher(const GcmCipher&) = delete;
  GcmCipher& operator=(const GcmCipher&) = delete;

  // Decrypts into `out`, which is as long as `sealed`. EIO: the tag is another one.
  Read<> open(std::span<const std::byte> nonce,
              std::span<const std::byte> named,
              std::span<const std::byte> sealed,
              std::span<const std::byte> tag,
              std::span<std::byte> out,
              GcmContext& state) const noexcept;

 private:
  GcmCipher(evp_cipher_st* cipher, unsigned char* key) noexcept : cipher_(cipher), key_(key) {}

  evp_cipher_st* cipher_;
  // OpenSSL 3.0 copies no context of this cipher: each thread makes its own from the key.
  unsigned char* key_;  // in OpenSSL's memory
};

class Cipher {
 public:
  // Reads the key from `key` (kVolumeKeyBytes, no more) and closes nothing. From then on OpenSSL's
  // memory, where the key schedule lies, is locked as far as the limit allows and never dumped.
  // ORDER: before anything else uses OpenSSL's allocator.
  static Outcome<std::unique_ptr<Cipher>> make(int key, const CryptGeometry& geometry) noexcept;
  ~Cipher();
  Cipher(const Cipher&) = delete;
  Cipher& operator=(const Cipher&) = delete;

  [[nodiscard]] const CryptGeometry& geometry() const noexcept { return geometry_; }

  // Decrypts whole sectors in place; `offset` is that of the first in the plaintext, in bytes.
  Read<> decrypt(std::uint64_t offset,
                 std::span<std::byte> sectors,
                 CipherContext& state) const noexcept;

 private:
  Cipher(const CryptGeometry& geometry, evp_cipher_ctx_st* keyed) noexcept
      : geometry_(geometry), keyed_(keyed) {}

  const CryptGeometry geometry_;
  evp_cipher_ctx_st* keyed_;
};

}  // namespace postern::squashfs
