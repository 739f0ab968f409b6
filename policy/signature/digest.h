// Digests of a SIF file's parts, as signatures name them.
//
// header digest:      61 bytes: launch script, magic, version, image id
// descriptor digest: 557 bytes, in this order: data type 4, used 1 (always 1), relative id 4,
//                    link 4 (as stored), size 8, created 8, uid 8, gid 8, name 128, extra 384
// object digest:     the object's bytes, without padding
//
// So architecture, times of modification, group, offset and padding are covered by none of them,
// and nothing that is believed may be derived from those.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"
#include "policy/sif/format.h"
#include "policy/snapshot/snapshot.h"

namespace postern::signature {

enum class Algorithm : std::uint8_t {
  kSha224,
  kSha256,
  kSha384,
  kSha512,
  kSha512_224,
  kSha512_256,
};

struct Digest {
  Algorithm algorithm = Algorithm::kSha256;
  std::array<std::uint8_t, 64> bytes = {};  // the first digest_bytes(algorithm) count

  bool operator==(const Digest&) const = default;
};

std::size_t digest_bytes(Algorithm algorithm) noexcept;

// "sha256", "sha512_224": exactly these spellings.
std::string_view name_of(Algorithm algorithm) noexcept;

// "sha256:<hex>": known algorithm, exactly one colon, hex of either case and of the right length.
Outcome<Digest> parse_digest(std::string_view text);
// Hex digits alone, of either case.
Outcome<Digest> parse_hex_digest(Algorithm algorithm, std::string_view hex);
// The inverse of parse_digest, lower case.
std::string digest_text(const Digest& digest);

Digest digest_of(Algorithm algorithm, std::span<const std::uint8_t> bytes);
Digest digest_of(Algorithm algorithm, std::string_view bytes);
Digest header_digest(Algorithm algorithm, std::span<const std::uint8_t, sif::kHeaderBytes> header);
Digest descriptor_digest(Algorithm algorithm,
                         std::span<const std::uint8_t, sif::kDescriptorBytes> descriptor,
                         std::uint32_t relative_id);

// Bytes of a file to hash, as one stream.
struct HashJob {
  Algorithm algorithm = Algorithm::kSha256;
  std::vector<Extent> runs;
};

// Bytes that the jobs name, each run counted once.
std::uint64_t bytes_of(const std::vector<HashJob>& jobs);

// Hashes the jobs on at most `threads` threads (0: one a processor). Each byte is read once, also
// if several jobs name it: jobs that share a run are hashed together. What `file` holds already is
// hashed from there. `progress` is told how many bytes more were hashed; calls never overlap. The
// digests are in the jobs' order. Error: reading failed, or two different runs overlap.
using HashProgress = std::function<void(std::uint64_t bytes)>;
Outcome<std::vector<Digest>> hash_file(Snapshot& file,
                                       const std::vector<HashJob>& jobs,
                                       const HashProgress& progress = {},
                                       unsigned threads = 0);

}  // namespace postern::signature
