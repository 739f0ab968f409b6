// SHA-256 (FIPS 180-4) for the one place that needs a digest and cannot link OpenSSL: `sif add` of
// OCI objects in bin/postern, whose start-up time counts. Not used for anything that is verified.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace postern::sif {

class Sha256 {
 public:
  void update(std::span<const std::uint8_t> bytes) noexcept;
  // The digest; the object must not be used afterwards.
  std::array<std::uint8_t, 32> finish() noexcept;

 private:
  void block(std::span<const std::uint8_t, 64> bytes) noexcept;

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_{};
  std::uint64_t total_ = 0;  // bytes so far
};

}  // namespace postern::sif
