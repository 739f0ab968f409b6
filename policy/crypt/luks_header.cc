#include "policy/crypt/luks_header.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include <sys/mman.h>
#include <sys/stat.h>

#include <libcryptsetup.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "policy/crypt/luks2.h"

namespace postern::crypt {
namespace {

// LUKS2 specification, 2.1: primary binary header.
constexpr std::size_t kBinaryHeaderBytes = 4096;
constexpr std::string_view kPrimaryMagic{"LUKS\xba\xbe", 6};
constexpr std::string_view kSecondaryMagic{"SKUL\xba\xbe", 6};
constexpr std::uint64_t kMaxMetadataBytes = 4ULL * 1024 * 1024;  // of one copy
constexpr std::uint64_t kMaxSlotAreaBytes = 16ULL * 1024 * 1024;
constexpr std::uint64_t kDefaultHeaderBytes = 16ULL * 1024 * 1024;

// Argon2id for passphrases, bounded so that a start needs 256 MiB and well under a second of one
// core, not the gibibyte that cryptsetup's benchmark picks. RFC 9106 asks for at least 64 MiB.
constexpr std::uint32_t kArgonMemoryKib = 256 * 1024;
constexpr std::uint32_t kArgonPasses = 4;
constexpr std::uint32_t kArgonLanes = 2;
// For what has full entropy: PBKDF2 at libcryptsetup's own minimum, without a benchmark.
constexpr crypt_pbkdf_type kCheap = {.type = CRYPT_KDF_PBKDF2,
                                     .hash = "sha256",
                                     .time_ms = 0,
                                     .iterations = 1000,
                                     .max_memory_kb = 0,
                                     .parallel_threads = 0,
                                     .flags = CRYPT_PBKDF_NO_BENCHMARK};

void discard_log(int /*level*/, const char* /*message*/, void* /*user*/) {}

void prepare_library() {
  static const bool done = [] {
    crypt_set_log_callback(nullptr, discard_log, nullptr);
    crypt_set_debug_level(CRYPT_DEBUG_NONE);
    crypt_token_external_disable();  // a header's token type must never name a library to load
    (void)crypt_metadata_locking(nullptr, 0);  // /run/cryptsetup is root's
    return true;
  }();
  (void)done;
}

Problem bad_header(std::string why) {
  return Problem{.what = "LUKS2 header: " + std::move(why)};
}

Outcome<UniqueFd> header_file(std::uint64_t bytes) {
  UniqueFd file(::memfd_create("luks-header", MFD_CLOEXEC));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return system_problem("making room for a LUKS2 header", errno);
  }
  return file;
}

Outcome<Ok> copy_range(Snapshot& from,
                       std::uint64_t from_offset,
                       int to,
                       std::uint64_t to_offset,
                       std::uint64_t bytes) {
  POSTERN_TRY_ASSIGN(
      const std::span<const std::uint8_t> part,
      from.fetch({.offset = from_offset, .bytes = bytes}, "reading the LUKS2 header"));
  for (std::size_t done = 0; done < part.size();) {
    const ssize_t put =
        ::pwrite(to, part.data() + done, part.size() - done, static_cast<off_t>(to_offset + done));
    if (put <= 0) {
      return system_problem("copying the LUKS2 header", errno);
    }
    done += static_cast<std::size_t>(put);
  }
  return Ok{};
}

std::uint64_t big_endian_64(const char* at) {
  std::uint64_t value = 0;
  for (int i = 0; i < 8; ++i) {
    value = value << 8 | static_cast<unsigned char>(at[i]);
  }
  return value;
}

// Size of one metadata copy, from whichever binary header is intact enough to say. The secondary
// copy stands at offset hdr_size, one of the sizes of the specification (16 KiB · 2^n).
Outcome<std::uint64_t> copy_bytes(Snapshot& image, const Extent& partition) {
  const std::uint64_t bytes = partition.bytes;
  const auto magic_at = [&](std::uint64_t at, std::string_view magic) -> std::uint64_t {
    constexpr std::size_t kStart = 16;
    if (at + kBinaryHeaderBytes > bytes) {
      return 0;
    }
    const auto start = image.fetch_text({.offset = partition.offset + at, .bytes = kStart},
                                        "reading the LUKS2 header");
    if (!start || start->substr(0, magic.size()) != magic) {
      return 0;
    }
    const auto version = static_cast<unsigned>(static_cast<unsigned char>((*start)[6]) << 8 |
                                               static_cast<unsigned char>((*start)[7]));
    return version == 2 ? big_endian_64(start->data() + 8) : version == 1 ? 1 : 0;
  };
  std::uint64_t size = magic_at(0, kPrimaryMagic);
  if (size == 1) {
    return Problem{.what = "this is LUKS version 1, not LUKS2",
                   .cure = "convert it with `cryptsetup convert --type luks2`"};
  }
  for (std::uint64_t at = 16 * 1024; size == 0 && at <= kMaxMetadataBytes; at *= 2) {
    size = magic_at(at, kSecondaryMagic) == at ? at : 0;
  }
  if (size == 0) {
    return bad_header("none found at the start of the encrypted partition");
  }
  if (size < 2 * kBinaryHeaderBytes || size > kMaxMetadataBytes || 2 * size > bytes) {
    return bad_header("its size field says " + std::to_string(size) + " bytes");
  }
  return size;
}

}  // namespace

void LuksHeader::Release::operator()(crypt_device* device) const noexcept {
  crypt_free(device);
}

LuksHeader::LuksHeader(UniqueFd file, std::unique_ptr<crypt_device, Release> device) noexcept
    : file_(std::move(file)), device_(std::move(device)) {}

Outcome<LuksHeader> LuksHeader::load(Snapshot& image, const Extent& partition) {
  prepare_library();
  const std::uint64_t offset = partition.offset;
  const std::uint64_t bytes = partition.bytes;
  POSTERN_TRY_ASSIGN(const std::uint64_t metadata, copy_bytes(image, partition));
  POSTERN_TRY_ASSIGN(UniqueFd file, header_file(std::min<std::uint64_t>(
                                        bytes, 2 * kMaxMetadataBytes + kMaxSlotAreaBytes)));
  POSTERN_TRY(copy_range(image, offset, file.get(), 0, 2 * metadata));
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  crypt_device* raw = nullptr;
  if (crypt_init(&raw, path.c_str()) != 0) {
    return bad_header("libcryptsetup cannot open it");
  }
  LuksHeader header(std::move(file), std::unique_ptr<crypt_device, Release>(raw));
  header.metadata_bytes_ = 2 * metadata;
  if (const int status = crypt_load(raw, CRYPT_LUKS2, nullptr); status != 0) {
    return bad_header("damaged: neither of its two copies is valid");
  }
  POSTERN_TRY(header.read_geometry(bytes));
  for (const int slot : header.slots()) {
    std::uint64_t area = 0;
    std::uint64_t length = 0;
    if (crypt_keyslot_area(raw, slot, &area, &length) != 0 || area > header.geometry_.data_offset ||
        length > std::min(kMaxSlotAreaBytes, header.geometry_.data_offset - area)) {
      return bad_header("key slot " + std::to_string(slot) + " lies outside the key slot area");
    }
    POSTERN_TRY(copy_range(image, offset + area, header.file(), area, length));
  }
  return header;
}

Outcome<LuksHeader> LuksHeader::format(std::uint64_t data_bytes,
                                       std::uint32_t sector_bytes,
                                       std::span<const std::byte> volume_key) {
  prepare_library();
  POSTERN_TRY_ASSIGN(UniqueFd file, header_file(kDefaultHeaderBytes + sector_bytes));
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  crypt_device* raw = nullptr;
  if (crypt_init(&raw, path.c_str()) != 0) {
    return bad_header("libcryptsetup cannot write it");
  }
  LuksHeader header(std::move(file), std::unique_ptr<crypt_device, Release>(raw));
  // Of the digest of the volume key. Key slots bring their own cost (add_secret).
  crypt_params_luks2 parameters{};
  parameters.pbkdf = &kCheap;
  parameters.data_alignment = kDefaultHeaderBytes / 512;
  parameters.sector_size = sector_bytes;
  if (volume_key.size() != kVolumeKeyBytes ||
      // SAFETY: char may alias any object.
      crypt_format(raw, CRYPT_LUKS2, "aes", "xts-plain64", nullptr,
                   reinterpret_cast<const char*>(volume_key.data()), volume_key.size(),
                   &parameters) != 0) {
    return bad_header("libcryptsetup cannot format it");
  }
  POSTERN_TRY(header.read_geometry(kDefaultHeaderBytes + data_bytes));
  return header;
}

namespace {

Outcome<> check_cipher(crypt_device* device) {
  std::uint32_t requirements = 0;
  if (crypt_persistent_flags_get(device, CRYPT_FLAGS_REQUIREMENTS, &requirements) != 0 ||
      requirements != 0) {
    return bad_header("it asks for features that must be finished or known first (reencryption)");
  }
  const char* cipher = crypt_get_cipher(device);
  const char* mode = crypt_get_cipher_mode(device);
  const std::string name =
      std::string(cipher != nullptr ? cipher : "?") + "-" + (mode != nullptr ? mode : "?");
  if (name != "aes-xts-plain64" ||
      crypt_get_volume_key_size(device) != static_cast<int>(kVolumeKeyBytes)) {
    return bad_header("cipher " + name + " with a key of " +
                      std::to_string(crypt_get_volume_key_size(device) * 8) +
                      " bits; only aes-xts-plain64 with 512 bits is supported");
  }
  return Ok{};
}

// The data segment, once the digests are known to be no trap.
Outcome<nlohmann::json> read_segment(crypt_device* device) {
  const char* text = nullptr;
  if (crypt_dump_json(device, &text, 0) != 0) {
    return bad_header("its metadata cannot be read");
  }
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("segments") || !json["segments"].is_object() ||
      json["segments"].size() != 1 || !json["segments"].contains("0") ||
      !json["segments"]["0"].is_object()) {
    return bad_header("exactly one data segment is expected");
  }
  for (const auto& digest : json.value("digests", nlohmann::json::object())) {
    const auto iterations = digest.value("iterations", nlohmann::json());
    if (iterations.is_number_unsigned() && iterations.get<std::uint64_t>() > kMaxDigestIterations) {
      return bad_header("its key digest asks for " +
                        std::to_string(iterations.get<std::uint64_t>()) +
                        " iterations, more than " + std::to_string(kMaxDigestIterations));
    }
  }
  return json["segments"]["0"];
}

// Of a segment that may take `most`.
Outcome<std::uint64_t> bytes_of(const nlohmann::json& segment,
                                std::uint64_t most,
                                std::uint64_t sector) {
  most = most / sector * sector;
  const auto size = segment.value("size", nlohmann::json());
  if (!size.is_string()) {
    return bad_header("its data segment has no size");
  }
  const auto& words = size.get_ref<const std::string&>();
  if (words == "dynamic") {
    return most;
  }
  errno = 0;
  char* end = nullptr;
  const std::uint64_t fixed = std::strtoull(words.c_str(), &end, 10);
  if (errno != 0 || *end != '\0' || fixed == 0 || fixed > most || fixed % sector != 0) {
    return bad_header("its data segment lies outside the partition");
  }
  return fixed;
}

}  // namespace

Outcome<Ok> LuksHeader::read_geometry(std::uint64_t bytes) {
  crypt_device* device = device_.get();
  POSTERN_TRY(check_cipher(device));
  POSTERN_TRY_ASSIGN(const nlohmann::json segment, read_segment(device));
  if (segment.contains("integrity")) {
    return bad_header(
        "authenticated encryption (integrity) is not supported; seal the image instead");
  }
  // The kernel's dm-crypt would follow it, and readers of ours would not: two readings of one
  // header. crypt_get_iv_offset(3) does not tell: for LUKS2 it is always 0.
  if (segment.value("iv_tweak", nlohmann::json()) != "0") {
    return bad_header("its sectors are not numbered from 0 (iv_tweak), which is not supported");
  }
  const std::uint64_t data_offset = crypt_get_data_offset(device) * 512;
  const int sector = crypt_get_sector_size(device);
  if ((sector != 512 && sector != 4096) || data_offset == 0 || data_offset >= bytes) {
    return bad_header("its data segment lies outside the partition");
  }
  POSTERN_TRY_ASSIGN(const std::uint64_t data_bytes,
                     bytes_of(segment, bytes - data_offset, static_cast<std::uint64_t>(sector)));
  geometry_ = CryptGeometry{.data_bytes = data_bytes,
                            .data_offset = data_offset,
                            .iv_offset = 0,
                            .sector_bytes = static_cast<std::uint16_t>(sector),
                            .key_descriptor = kNoDescriptor};
  return Ok{};
}

std::vector<int> LuksHeader::slots() const {
  std::vector<int> active;
  for (int slot = 0; slot < crypt_keyslot_max(CRYPT_LUKS2); ++slot) {
    const crypt_keyslot_info status = crypt_keyslot_status(device_.get(), slot);
    if (status == CRYPT_SLOT_ACTIVE || status == CRYPT_SLOT_ACTIVE_LAST) {
      active.push_back(slot);
    }
  }
  return active;
}

Outcome<Ok> LuksHeader::slot_within(int slot, const KdfLimits& limits) const {
  crypt_pbkdf_type kdf{};
  if (crypt_keyslot_get_pbkdf(device_.get(), slot, &kdf) != 0 || kdf.type == nullptr) {
    return bad_header("key slot " + std::to_string(slot) + " has no key derivation that is known");
  }
  const bool pbkdf2 = std::string_view(kdf.type) == CRYPT_KDF_PBKDF2;
  const std::uint32_t passes = pbkdf2 ? limits.max_iterations : limits.max_time_cost;
  if (kdf.max_memory_kb > limits.max_memory_kib || kdf.iterations > passes ||
      kdf.parallel_threads > limits.max_threads) {
    return Problem{.what = "key slot " + std::to_string(slot) + " asks for " +
                           std::to_string(kdf.max_memory_kb / 1024) + " MiB, " +
                           std::to_string(kdf.iterations) + " iterations and " +
                           std::to_string(kdf.parallel_threads) + " threads to unlock (" +
                           kdf.type + ")",
                   .cure = "if you trust the image, raise [crypt] in postern.toml"};
  }
  return Ok{};
}

Outcome<LuksHeader::Opened> LuksHeader::unlock(std::span<const std::byte> secret,
                                               const KdfLimits& limits) const {
  Problem last{.what = "the LUKS2 header has no key slot"};
  for (const int slot : slots()) {
    if (auto within = slot_within(slot, limits); !within) {
      last = std::move(within).error();
      continue;
    }
    SecretBytes key(kVolumeKeyBytes);
    std::size_t size = key.size();
    // SAFETY: char may alias any object; libcryptsetup takes both buffers as char*.
    const int opened =
        crypt_volume_key_get(device_.get(), slot, reinterpret_cast<char*>(key.bytes().data()),
                             &size, reinterpret_cast<const char*>(secret.data()), secret.size());
    if (opened == slot && size == kVolumeKeyBytes) {
      return Opened{.slot = slot, .volume_key = std::move(key)};
    }
    last =
        opened == -ENOMEM
            ? system_problem("deriving the key of slot " + std::to_string(slot), ENOMEM)
            : Problem{.what =
                          "failed to decrypt, ensure you have supplied appropriate key material"};
  }
  return last;
}

bool LuksHeader::fits(std::span<const std::byte> key) const {
  // SAFETY: char may alias any object.
  return crypt_volume_key_verify(device_.get(), reinterpret_cast<const char*>(key.data()),
                                 key.size()) == 0;
}

Outcome<int> LuksHeader::add_secret(std::span<const std::byte> volume_key,
                                    std::span<const std::byte> secret,
                                    bool full_entropy) {
  const crypt_pbkdf_type stretched{.type = CRYPT_KDF_ARGON2ID,
                                   .hash = "sha256",
                                   .time_ms = 0,
                                   .iterations = kArgonPasses,
                                   .max_memory_kb = kArgonMemoryKib,
                                   .parallel_threads = kArgonLanes,
                                   .flags = CRYPT_PBKDF_NO_BENCHMARK};
  if (crypt_set_pbkdf_type(device_.get(), full_entropy ? &kCheap : &stretched) != 0) {
    return bad_header("the key derivation is not available");
  }
  // SAFETY: char may alias any object.
  const int slot = crypt_keyslot_add_by_volume_key(
      device_.get(), CRYPT_ANY_SLOT, reinterpret_cast<const char*>(volume_key.data()),
      volume_key.size(), reinterpret_cast<const char*>(secret.data()), secret.size());
  if (slot < 0) {
    return slot == -EINVAL ? bad_header("no free key slot, or the volume key does not fit")
                           : system_problem("adding a key slot", -slot);
  }
  return slot;
}

Outcome<Ok> LuksHeader::remove_slot(int slot) {
  if (crypt_keyslot_destroy(device_.get(), slot) != 0) {
    return bad_header("key slot " + std::to_string(slot) + " cannot be removed");
  }
  return Ok{};
}

}  // namespace postern::crypt
