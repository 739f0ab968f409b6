// In place of cipher.cc, for images that are not encrypted: all of libcrypto's ciphers, which one
// table of it refers to, are 17,000 addresses to relocate and 400 KiB of memory at each start.
#include <cerrno>

#include "frontend/squashfs/cipher.h"

namespace postern::squashfs {

GcmContext::~GcmContext() = default;

GcmCipher::~GcmCipher() = default;

Outcome<std::unique_ptr<GcmCipher>> GcmCipher::make(int /*key*/) noexcept {
  return Problem{.what = "postern-squashfs-plain decrypts nothing",
                 .cure = "postern-squashfs serves encrypted images"};
}

Read<> GcmCipher::open(std::span<const std::byte> /*nonce*/,
                       std::span<const std::byte> /*named*/,
                       std::span<const std::byte> /*sealed*/,
                       std::span<const std::byte> /*tag*/,
                       std::span<std::byte> /*out*/,
                       GcmContext& /*state*/) const noexcept {
  return Errno{EIO};  // none is ever made
}

CipherContext::~CipherContext() = default;

Cipher::~Cipher() = default;

Outcome<std::unique_ptr<Cipher>> Cipher::make(int /*key*/,
                                              const CryptGeometry& /*geometry*/) noexcept {
  return Problem{.what = "postern-squashfs-plain decrypts nothing",
                 .cure = "postern-squashfs serves encrypted images"};
}

Read<> Cipher::decrypt(std::uint64_t /*offset*/,
                       std::span<std::byte> /*sectors*/,
                       CipherContext& /*state*/) const noexcept {
  return Errno{EIO};  // none is ever made
}

}  // namespace postern::squashfs
