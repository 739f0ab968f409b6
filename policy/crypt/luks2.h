// Reading a LUKS2 header, without libcryptsetup: for the judge, which may not open a file, run a
// thread or load a library by the time it sees one. Only what `postern encrypt` and cryptsetup's
// defaults write is read; LuksHeader (policy/crypt/luks_header.h) does everything else.
//
// Source: "LUKS2 On-Disk Format Specification", 1.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "policy/problem.h"
#include "policy/snapshot/snapshot.h"
#include "protocol/verdict.h"

namespace postern::crypt {

// Of the volume key, as the header stores it: PBKDF2 with HMAC-SHA-256.
struct KeyDigest {
  std::uint64_t iterations = 0;
  std::string salt;    // bytes
  std::string digest;  // bytes
};

struct Luks2 {
  CryptGeometry geometry{};  // key_descriptor is kNoDescriptor
  KeyDigest digest;
};

// Far above what a benchmark of cryptsetup chooses; a bound on what a hostile header can cost.
inline constexpr std::uint64_t kMaxDigestIterations = 4'000'000;

// Where the primary header of `partition` lies: binary header and metadata. Error: there is none.
[[nodiscard]] Outcome<Extent> luks2_extent(Snapshot& image, const Extent& partition);

// Reads the primary header at the start of `partition`. Errors: damage (the checksum is verified),
// another cipher than aes-xts-plain64 with 512 bits, integrity, requirements (reencryption),
// several segments, a segment outside of the partition or with an iv_tweak, a digest that is not
// PBKDF2 with SHA-256.
[[nodiscard]] Outcome<Luks2> read_luks2(Snapshot& image, const Extent& partition);

// The metadata, parsed: pure. The partition is `bytes` long.
[[nodiscard]] Outcome<Luks2> parse_luks2(std::string_view json, std::uint64_t bytes);

// Whether `key` is the volume key.
[[nodiscard]] bool key_fits(const KeyDigest& digest, std::span<const std::byte> key);

}  // namespace postern::crypt
