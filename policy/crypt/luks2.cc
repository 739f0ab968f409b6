#include "policy/crypt/luks2.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

// SHA256_* are deprecated for programs that want a choice of providers. Here they keep all of
// OpenSSL but this one function out of the judge.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "policy/crypt/luks_header.h"
#include "policy/json/strict.h"
#include "policy/text/base64.h"

namespace postern::crypt {
namespace {

using json::Value;
using Kind = json::Value::Kind;

// The binary header, big endian:
//     0 magic 6 | 6 version u16 | 8 size u64, with the JSON area | 16 sequence u64 | 24 label 48
//    72 checksum algorithm 32 | 104 salt 64 | 168 uuid 40 | 208 subsystem 48 | 256 offset u64
//   448 checksum 64 | 512 … 4096 zero | 4096 … size: JSON text, NUL-padded
constexpr std::size_t kBinaryBytes = 4096;
constexpr std::size_t kSizeAt = 8;
constexpr std::size_t kAlgorithmAt = 72;
constexpr std::size_t kChecksumAt = 448;
constexpr std::size_t kChecksumBytes = 64;
constexpr std::string_view kMagic{"LUKS\xba\xbe\x00\x02", 8};
constexpr std::size_t kLeastHeader = 16 * 1024;
constexpr std::size_t kMostHeader = 4 * 1024 * 1024;

using Hash = std::array<std::uint8_t, SHA256_DIGEST_LENGTH>;

Problem bad(const char* what) {
  return Problem{.what = std::string("the LUKS2 header cannot be used: ") + what};
}

std::uint64_t load_big_endian(std::span<const std::uint8_t, 8> bytes) {
  std::uint64_t value = 0;
  for (const std::uint8_t byte : bytes) {
    value = value << 8 | byte;
  }
  return value;
}

// Over the whole header with the checksum's field zero.
bool checksum_holds(std::span<const std::uint8_t> header) {
  constexpr std::array<std::uint8_t, kChecksumBytes> kZeros{};
  std::array<std::uint8_t, kChecksumBytes> computed{};
  // Not SHA256(3): in OpenSSL 3 it fetches the algorithm from a provider, and so links all of them.
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, header.data(), kChecksumAt);
  SHA256_Update(&context, kZeros.data(), kZeros.size());
  const auto rest = header.subspan(kChecksumAt + kChecksumBytes);
  SHA256_Update(&context, rest.data(), rest.size());
  SHA256_Final(computed.data(), &context);
  return std::memcmp(computed.data(), &header[kChecksumAt], computed.size()) == 0;
}

// Numbers beyond 2^53 are strings in LUKS2.
std::optional<std::uint64_t> number(const Value* value) {
  if (value == nullptr || value->kind != Kind::kString) {
    return std::nullopt;
  }
  std::uint64_t result = 0;
  const char* end = value->text.data() + value->text.size();
  const auto [stop, error] = std::from_chars(value->text.data(), end, result);
  return error == std::errc() && stop == end ? std::optional(result) : std::nullopt;
}

bool is_text(const Value* value, std::string_view wanted) {
  return value != nullptr && value->kind == Kind::kString && value->text == wanted;
}

bool names_segment(const Value& list) {
  return std::any_of(list.items.begin(), list.items.end(), [](const Value& item) {
    return item.kind == Kind::kString && item.text == "0";
  });
}

Outcome<CryptGeometry> read_segment(const Value& segment, std::uint64_t bytes) {
  if (!is_text(segment.find("type"), "crypt") || segment.find("integrity") != nullptr) {
    return bad("its data segment is not plain encryption");
  }
  if (!is_text(segment.find("encryption"), "aes-xts-plain64")) {
    return bad("only the cipher aes-xts-plain64 is supported");
  }
  const Value* sector = segment.find("sector_size", Kind::kUnsigned);
  const std::optional<std::uint64_t> offset = number(segment.find("offset"));
  const std::optional<std::uint64_t> tweak = number(segment.find("iv_tweak"));
  if (!tweak || *tweak != 0) {
    return bad("its sectors are not numbered from 0 (iv_tweak)");
  }
  if (sector == nullptr || (sector->number != 512 && sector->number != 4096) || !offset ||
      *offset == 0 || *offset % 512 != 0 || *offset >= bytes) {
    return bad("its data segment lies outside of the partition");
  }
  const std::uint64_t available = (bytes - *offset) / sector->number * sector->number;
  const Value* size = segment.find("size");
  const std::uint64_t data = is_text(size, "dynamic") ? available : number(size).value_or(0);
  if (data == 0 || data > available || data % sector->number != 0) {
    return bad("its data segment lies outside of the partition");
  }
  return CryptGeometry{.data_bytes = data,
                       .data_offset = *offset,
                       .iv_offset = 0,
                       .sector_bytes = static_cast<std::uint16_t>(sector->number),
                       .key_descriptor = kNoDescriptor};
}

Outcome<KeyDigest> read_digest(const Value& digest) {
  const Value* iterations = digest.find("iterations", Kind::kUnsigned);
  const Value* salt = digest.find("salt", Kind::kString);
  const Value* value = digest.find("digest", Kind::kString);
  if (!is_text(digest.find("type"), "pbkdf2") || !is_text(digest.find("hash"), "sha256") ||
      iterations == nullptr || iterations->number == 0 ||
      iterations->number > kMaxDigestIterations || salt == nullptr || value == nullptr) {
    return bad("its key digest is not PBKDF2 with SHA-256 of bounded cost");
  }
  KeyDigest result{.iterations = iterations->number};
  const auto salt_bytes = text::decode_base64(salt->text);
  const auto digest_bytes = text::decode_base64(value->text);
  if (!salt_bytes || !digest_bytes) {
    return bad("its key digest is not base64");
  }
  result.salt.assign(salt_bytes->begin(), salt_bytes->end());
  result.digest.assign(digest_bytes->begin(), digest_bytes->end());
  if (result.digest.size() != SHA256_DIGEST_LENGTH || result.salt.empty() ||
      result.salt.size() > 1024) {
    return bad("its key digest has a wrong length");
  }
  return result;
}

// HMAC (RFC 2104) of one key, many messages: the two padded blocks are hashed once.
class Hmac {
 public:
  explicit Hmac(std::span<const std::byte> key) {
    std::array<std::uint8_t, SHA256_CBLOCK> block{};
    // A key of 64 bytes is exactly one block; a longer one would be hashed first.
    std::memcpy(block.data(), key.data(), std::min(key.size(), block.size()));
    start(inner_, block, 0x36);
    start(outer_, block, 0x5c);
    OPENSSL_cleanse(block.data(), block.size());
  }

  Hmac(const Hmac&) = delete;
  Hmac& operator=(const Hmac&) = delete;

  ~Hmac() {
    OPENSSL_cleanse(&inner_, sizeof inner_);
    OPENSSL_cleanse(&outer_, sizeof outer_);
  }

  Hash operator()(const void* data, std::size_t size) const {
    Hash result;
    SHA256_CTX context = inner_;
    SHA256_Update(&context, data, size);
    SHA256_Final(result.data(), &context);
    context = outer_;
    SHA256_Update(&context, result.data(), result.size());
    SHA256_Final(result.data(), &context);
    return result;
  }

 private:
  static void start(SHA256_CTX& context,
                    std::array<std::uint8_t, SHA256_CBLOCK> block,
                    std::uint8_t pad) {
    for (std::uint8_t& byte : block) {
      byte ^= pad;
    }
    SHA256_Init(&context);
    SHA256_Update(&context, block.data(), block.size());
    OPENSSL_cleanse(block.data(), block.size());
  }

  SHA256_CTX inner_;
  SHA256_CTX outer_;
};

}  // namespace

Outcome<Extent> luks2_extent(Snapshot& image, const Extent& partition) {
  if (partition.bytes < kLeastHeader) {
    return bad("the partition is too short");
  }
  POSTERN_TRY_ASSIGN(
      const std::span<const std::uint8_t> header,
      image.fetch({.offset = partition.offset, .bytes = kBinaryBytes}, "reading the LUKS2 header"));
  if (std::memcmp(header.data(), kMagic.data(), kMagic.size()) != 0 ||
      std::memcmp(&header[kAlgorithmAt], "sha256", sizeof "sha256") != 0) {
    return bad("it is not LUKS version 2 with SHA-256");
  }
  const std::uint64_t size = load_big_endian(header.subspan<kSizeAt, 8>());
  if (size < kLeastHeader || size > kMostHeader || size > partition.bytes) {
    return bad("its size is out of range");
  }
  return Extent{.offset = partition.offset, .bytes = size};
}

Outcome<Luks2> read_luks2(Snapshot& image, const Extent& partition) {
  POSTERN_TRY_ASSIGN(const Extent extent, luks2_extent(image, partition));
  POSTERN_TRY_ASSIGN(const std::span<const std::uint8_t> header,
                     image.fetch(extent, "reading the LUKS2 header"));
  if (!checksum_holds(header)) {
    return bad("it is damaged");
  }
  // SAFETY: bytes as characters.
  const std::string_view area(reinterpret_cast<const char*>(header.data()) + kBinaryBytes,
                              header.size() - kBinaryBytes);
  return parse_luks2(area.substr(0, area.find('\0')), partition.bytes);
}

Outcome<Luks2> parse_luks2(std::string_view text, std::uint64_t bytes) {
  POSTERN_TRY_ASSIGN(const Value root, json::parse(text));
  const Value* config = root.find("config", Kind::kObject);
  const Value* segments = root.find("segments", Kind::kObject);
  const Value* digests = root.find("digests", Kind::kObject);
  if (config == nullptr || segments == nullptr || digests == nullptr) {
    return bad("its metadata is incomplete");
  }
  if (config->find("requirements") != nullptr) {
    return bad("it asks for features that must be finished or known first (reencryption)");
  }
  if (segments->members.size() != 1 || segments->members.front().name != "0") {
    return bad("exactly one data segment is expected");
  }
  // The digest that covers the segment; a second one would leave open which key counts.
  const Value* digest = nullptr;
  for (const auto& [name, value] : digests->members) {
    const Value* covered = value.find("segments", Kind::kArray);
    if (covered != nullptr && names_segment(*covered)) {
      if (digest != nullptr) {
        return bad("two key digests cover the data");
      }
      digest = &value;
    }
  }
  if (digest == nullptr) {
    return bad("no key digest covers the data");
  }
  Luks2 header;
  POSTERN_TRY_ASSIGN(header.geometry, read_segment(segments->members.front().value, bytes));
  POSTERN_TRY_ASSIGN(header.digest, read_digest(*digest));
  return header;
}

// PBKDF2 (RFC 8018, 5.2) for one block of output.
bool key_fits(const KeyDigest& digest, std::span<const std::byte> key) {
  if (key.size() != kVolumeKeyBytes || digest.digest.size() != SHA256_DIGEST_LENGTH) {
    return false;
  }
  const Hmac hmac(key);
  const std::string first = digest.salt + std::string("\0\0\0\1", 4);
  Hash round = hmac(first.data(), first.size());
  Hash sum = round;
  for (std::uint64_t i = 1; i < digest.iterations; ++i) {
    round = hmac(round.data(), round.size());
    for (std::size_t n = 0; n < sum.size(); ++n) {
      sum[n] ^= round[n];
    }
  }
  return CRYPTO_memcmp(sum.data(), digest.digest.data(), sum.size()) == 0;
}

}  // namespace postern::crypt
