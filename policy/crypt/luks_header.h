// LuksHeader: a LUKS2 header read out of an extent of an image file, with libcryptsetup and without
// privilege: no device-mapper, no kernel crypto, no lock files.
//
// Source: "LUKS2 On-Disk Format Specification" 1.1; libcryptsetup(3).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"
#include "protocol/verdict.h"

struct crypt_device;

namespace postern::crypt {

inline constexpr std::size_t kVolumeKeyBytes = 64;  // AES-256-XTS: two keys of 32 bytes

// What unlocking may cost. A hostile header can ask for 4 GiB of memory and 2^32 iterations.
struct KdfLimits {
  std::uint64_t max_memory_kib =
      1536ULL * 1024;                         // the default of cryptsetup's own benchmark is 1 GiB
  std::uint32_t max_iterations = 50'000'000;  // PBKDF2 iterations
  std::uint32_t max_time_cost = 64;           // Argon2 passes
  std::uint32_t max_threads = 4;              // Argon2 lanes
};

// Memory that is locked (mlock(2), where RLIMIT_MEMLOCK allows), left out of core files, and wiped.
class SecretBytes {
 public:
  SecretBytes() = default;
  explicit SecretBytes(std::size_t size);
  SecretBytes(SecretBytes&& other) noexcept;
  SecretBytes& operator=(SecretBytes&& other) noexcept;
  SecretBytes(const SecretBytes&) = delete;
  SecretBytes& operator=(const SecretBytes&) = delete;
  ~SecretBytes();

  [[nodiscard]] std::span<std::byte> bytes() noexcept { return {data_, size_}; }

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

  [[nodiscard]] const char* chars() const noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  // Shortens; the bytes cut off are wiped.
  void truncate(std::size_t size) noexcept;

 private:
  void wipe() noexcept;

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t mapped_ = 0;
};

class LuksHeader {
 public:
  // Reads the header at `offset` (bytes) of `image`; the partition is `bytes` long. Only metadata
  // and the key slots in use are read. Refuses what this program cannot map: other ciphers than
  // aes-xts-plain64 with a 64-byte key, integrity, reencryption in progress, several segments, a
  // data segment outside the partition. Damage to one of the two header copies is tolerated.
  static Outcome<LuksHeader> load(int image, std::uint64_t offset, std::uint64_t bytes);

  // Formats a header of 16 MiB (as cryptsetup makes it) in a memfd for `data_bytes` of data
  // encrypted under `volume_key`. It has no key slot yet: add_secret.
  static Outcome<LuksHeader> format(std::uint64_t data_bytes,
                                    std::uint32_t sector_bytes,
                                    std::span<const std::byte> volume_key);

  // Geometry for dm-crypt and for postern-squashfs; key_descriptor is kNoDescriptor.
  [[nodiscard]] const CryptGeometry& geometry() const noexcept { return geometry_; }

  struct Opened {
    int slot;
    SecretBytes volume_key;
  };

  // Tries `secret` on every slot whose cost is within `limits`. A Problem where none is within
  // them, or where the secret opens none.
  Outcome<Opened> unlock(std::span<const std::byte> secret, const KdfLimits& limits) const;

  // Whether `key` is the volume key of this header (its digest fits). PBKDF2 of the header's own
  // cost.
  [[nodiscard]] bool fits(std::span<const std::byte> key) const;

  // Adds a key slot. `full_entropy`: PBKDF2 at its minimum (nothing to stretch); otherwise Argon2id
  // with bounded memory. Returns the slot's number.
  Outcome<int> add_secret(std::span<const std::byte> volume_key,
                          std::span<const std::byte> secret,
                          bool full_entropy);
  Outcome<Ok> remove_slot(int slot);
  [[nodiscard]] std::vector<int> slots() const;

  // Brings the header, as add_secret and remove_slot have made it, into the image that it was
  // loaded from. At every instant, and whatever part of the writes reaches the disk, the image is
  // opened by what opened it before or by what opens it after. What removed slots held is
  // overwritten last.
  Outcome<Ok> store(int image, std::uint64_t offset, std::uint64_t bytes) const;

  // The header's bytes, [0, geometry().data_offset): what stands at the start of the partition.
  [[nodiscard]] int file() const noexcept { return file_.get(); }

 private:
  struct Release {
    void operator()(crypt_device* device) const noexcept;
  };

  LuksHeader(UniqueFd file, std::unique_ptr<crypt_device, Release> device) noexcept;
  Outcome<Ok> read_geometry(std::uint64_t bytes);
  Outcome<Ok> slot_within(int slot, const KdfLimits& limits) const;

  UniqueFd file_;  // memfd holding the header
  std::unique_ptr<crypt_device, Release> device_;
  CryptGeometry geometry_{};
};

}  // namespace postern::crypt
