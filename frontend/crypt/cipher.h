// AES-256-XTS over a range of a file, sector by sector, as dm-crypt's aes-xts-plain64 does it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "policy/problem.h"

namespace postern::crypt {

enum class Direction : bool { kDecrypt = false, kEncrypt = true };

struct CipherJob {
  std::span<const std::byte> key;  // 64 bytes
  std::uint32_t sector_bytes;      // 512 or 4096
  std::uint64_t iv_offset = 0;     // in 512-byte units, added to each sector's number
  int from;
  std::uint64_t from_offset;  // bytes
  std::uint64_t from_bytes;   // what there is to read; missing bytes of the last sector are zero
  int to;
  std::uint64_t to_offset;
};

// Transforms from_bytes, rounded up to whole sectors, with as many threads as there are processors
// (at most eight: then memory is the limit). `progress` is called from one thread at a time with
// the number of bytes just done. Errors: reading, writing (ENOSPC names the size that is needed).
Outcome<Ok> run_cipher(const CipherJob& job,
                       Direction direction,
                       const std::function<void(std::uint64_t)>& progress);

}  // namespace postern::crypt
