#include <algorithm>
#include <array>
#include <string>

#include <sys/mman.h>

#include <doctest/doctest.h>
#include <openssl/evp.h>
#include <unistd.h>

#include "policy/crypt/luks_header.h"
#include "tests/unit/fresh.h"

using postern::Fresh;
using postern::crypt::KdfLimits;
using postern::crypt::LuksHeader;

namespace {

constexpr std::uint64_t kDataBytes = 8192;
constexpr std::uint64_t kPartition = 16ULL * 1024 * 1024 + kDataBytes;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::array<std::byte, 64> some_key() {
  std::array<std::byte, 64> key{};
  for (std::size_t i = 0; i < key.size(); ++i) {
    key[i] = static_cast<std::byte>(i * 7 + 1);
  }
  return key;
}

LuksHeader formatted(const std::array<std::byte, 64>& key) {
  auto made = LuksHeader::format(kDataBytes, 4096, key);
  REQUIRE_MESSAGE(made, made.error().what);
  return *std::move(made);
}

void flip(int file, off_t at) {
  unsigned char byte = 0;
  REQUIRE(::pread(file, &byte, 1, at) == 1);
  byte ^= 0x55;
  REQUIRE(::pwrite(file, &byte, 1, at) == 1);
}

}  // namespace

TEST_SUITE("policy/crypt") {
  TEST_CASE(
      "a header opens with each of its secrets, with no other, and from an extent of a file") {
    const auto key = some_key();
    LuksHeader made = formatted(key);
    CHECK(made.geometry().data_offset == 16ULL * 1024 * 1024);
    CHECK(made.geometry().data_bytes == kDataBytes);
    CHECK(made.geometry().sector_bytes == 4096);
    CHECK(made.fits(key));
    REQUIRE(made.add_secret(key, bytes_of("a passphrase"), false));
    REQUIRE(made.add_secret(key, bytes_of("sixty-four random bytes"), true));
    REQUIRE(::ftruncate(made.file(), static_cast<off_t>(kPartition)) == 0);

    const auto loaded = LuksHeader::load(Fresh(made.file()), {0, kPartition});
    REQUIRE_MESSAGE(loaded, loaded.error().what);
    for (const char* secret : {"a passphrase", "sixty-four random bytes"}) {
      CAPTURE(secret);
      const auto opened = loaded->unlock(bytes_of(secret), KdfLimits{});
      REQUIRE_MESSAGE(opened, opened.error().what);
      CHECK(std::equal(key.begin(), key.end(), opened->volume_key.bytes().begin()));
    }
    CHECK_FALSE(loaded->unlock(bytes_of("another"), KdfLimits{}));
    auto other = key;
    other[0] ^= std::byte{1};
    CHECK_FALSE(loaded->fits(other));
  }

  TEST_CASE("a slot that costs more than the limits is refused before any work is done") {
    const auto key = some_key();
    LuksHeader made = formatted(key);
    REQUIRE(made.add_secret(key, bytes_of("a passphrase"), false));
    const auto refused = made.unlock(bytes_of("a passphrase"), KdfLimits{.max_memory_kib = 1024});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.find("asks for 256 MiB") != std::string::npos);
  }

  TEST_CASE("one damaged copy of the header is survived, two are not") {
    const auto key = some_key();
    LuksHeader made = formatted(key);
    REQUIRE(made.add_secret(key, bytes_of("secret"), true));
    REQUIRE(::ftruncate(made.file(), static_cast<off_t>(kPartition)) == 0);
    flip(made.file(), 100);
    CHECK(LuksHeader::load(Fresh(made.file()), {0, kPartition}));
    flip(made.file(), 0);
    CHECK(LuksHeader::load(Fresh(made.file()), {0, kPartition}));
    flip(made.file(), 16 * 1024 + 4200);
    CHECK_FALSE(LuksHeader::load(Fresh(made.file()), {0, kPartition}));
  }

  // Replaces a text of the metadata in both copies, checksums included. Zeros follow the text, so
  // that it may become longer.
  static void rewrite(int file, std::string_view from, std::string_view to) {
    constexpr std::size_t kCopy = 16 * 1024;
    for (const off_t at : {off_t{0}, static_cast<off_t>(kCopy)}) {
      std::string copy(kCopy, '\0');
      REQUIRE(::pread(file, copy.data(), copy.size(), at) == static_cast<ssize_t>(copy.size()));
      const std::size_t place = copy.find(from);
      REQUIRE(place != std::string::npos);
      copy.replace(place, from.size(), to);
      copy.resize(kCopy);
      std::fill_n(copy.begin() + 448, 64, '\0');
      std::array<unsigned char, 32> digest{};
      REQUIRE(EVP_Digest(copy.data(), copy.size(), digest.data(), nullptr, EVP_sha256(), nullptr) ==
              1);
      std::copy(digest.begin(), digest.end(), copy.begin() + 448);
      REQUIRE(::pwrite(file, copy.data(), copy.size(), at) == static_cast<ssize_t>(copy.size()));
    }
  }

  TEST_CASE("sectors that are not numbered from 0, and a key digest of hours, are refused") {
    const auto key = some_key();
    LuksHeader tweaked = formatted(key);
    REQUIRE(tweaked.add_secret(key, bytes_of("secret"), true));
    REQUIRE(::ftruncate(tweaked.file(), static_cast<off_t>(kPartition)) == 0);
    rewrite(tweaked.file(), R"("iv_tweak":"0")", R"("iv_tweak":"8")");
    const auto refused = LuksHeader::load(Fresh(tweaked.file()), {0, kPartition});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().what.find("iv_tweak") != std::string::npos);
    LuksHeader slow = formatted(key);
    // Argon2: the only PBKDF2 of the header is the digest's.
    REQUIRE(slow.add_secret(key, bytes_of("a passphrase"), false));
    REQUIRE(::ftruncate(slow.file(), static_cast<off_t>(kPartition)) == 0);
    rewrite(slow.file(), R"("iterations":1000,"salt")", R"("iterations":40000001,"salt")");
    const auto costly = LuksHeader::load(Fresh(slow.file()), {0, kPartition});
    REQUIRE_FALSE(costly);
    CHECK_MESSAGE(costly.error().what.find("iterations") != std::string::npos, costly.error().what);
  }

  TEST_CASE("a data segment outside the partition and a short partition are refused") {
    const auto key = some_key();
    LuksHeader made = formatted(key);
    CHECK_FALSE(LuksHeader::load(Fresh(made.file()), {0, 16ULL * 1024 * 1024}));
    CHECK_FALSE(LuksHeader::load(Fresh(made.file()), {0, 4096}));
    CHECK_FALSE(LuksHeader::load(Fresh(made.file()), {4096, kPartition - 4096}));
  }
}
