#include "policy/crypt/luks2.h"

#include <array>
#include <cstring>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/crypt/luks_header.h"
#include "tests/unit/fresh.h"

// The judge's reader against libcryptsetup's, which wrote the header.
namespace postern::crypt {
namespace {

constexpr std::uint64_t kData = 1 << 20;

std::array<std::byte, 64> sample_key() {
  std::array<std::byte, 64> key;
  for (std::size_t i = 0; i < key.size(); ++i) {
    key[i] = static_cast<std::byte>(i * 7 + 1);
  }
  return key;
}

// What a header of libcryptsetup says that covers the data, so that one thing can be changed.
std::string metadata() {
  return R"({"keyslots":{},"tokens":{},
"segments":{"0":{"type":"crypt","offset":"16777216","iv_tweak":"0","size":"dynamic",
"encryption":"aes-xts-plain64","sector_size":4096}},
"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":1000,
"salt":"G8gqtKhS96IbogHyJLO+t9kmjLkx+DM3HHJqQtgc2Dk=",
"digest":"C9JWko5m+oYmjg6R0t/98cGGzLr/4UaG3hImSJMivfc="}},
"config":{"json_size":"12288","keyslots_size":"16744448"}})";
}

std::string changed(std::string_view from, std::string_view to) {
  std::string text = metadata();
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("a header of libcryptsetup is read as libcryptsetup reads it") {
  for (const std::uint32_t sector : {512U, 4096U}) {
    CAPTURE(sector);
    const auto key = sample_key();
    auto made = LuksHeader::format(kData, sector, key);
    REQUIRE(made);
    const std::array<std::byte, 32> secret{};
    REQUIRE(made->add_secret(key, secret, true));
    const std::uint64_t bytes = made->geometry().data_offset + kData;
    REQUIRE(::ftruncate(made->file(), static_cast<off_t>(bytes)) == 0);
    const auto theirs = LuksHeader::load(Fresh(made->file()), {0, bytes});
    REQUIRE_MESSAGE(theirs, theirs.error().what);
    const auto ours = read_luks2(Fresh(made->file()), {0, bytes});
    REQUIRE_MESSAGE(ours, ours.error().what);
    CHECK(std::memcmp(&ours->geometry, &theirs->geometry(), sizeof ours->geometry) == 0);
    CHECK(ours->geometry.data_bytes == kData);
    CHECK(key_fits(ours->digest, key));
    auto other = key;
    other[63] ^= std::byte{1};
    CHECK_FALSE(key_fits(ours->digest, other));
    CHECK_FALSE(theirs->fits(other));
    CHECK_FALSE(key_fits(ours->digest, std::span(key).first(63)));
  }
}

TEST_CASE("every damaged byte of a header is noticed") {
  const auto made = LuksHeader::format(kData, 4096, sample_key());
  REQUIRE(made);
  const std::uint64_t bytes = made->geometry().data_offset + kData;
  for (const off_t at : {0, 6, 8, 15, 72, 104, 447, 448, 479, 511, 4095, 4096, 4200, 16383}) {
    CAPTURE(at);
    unsigned char byte = 0;
    REQUIRE(::pread(made->file(), &byte, 1, at) == 1);
    const unsigned char wrong = byte ^ 0x20U;
    REQUIRE(::pwrite(made->file(), &wrong, 1, at) == 1);
    CHECK_FALSE(read_luks2(Fresh(made->file()), {0, bytes}));
    REQUIRE(::pwrite(made->file(), &byte, 1, at) == 1);
  }
  CHECK(read_luks2(Fresh(made->file()), {0, bytes}));
  CHECK_FALSE(read_luks2(Fresh(made->file()), {0, 16383}));
  CHECK_FALSE(read_luks2(Fresh(made->file()), {512, bytes}));
  CHECK_FALSE(read_luks2(Fresh(-1), {0, bytes}));
}

TEST_CASE("metadata that we cannot map is refused") {
  constexpr std::uint64_t kBytes = 16777216 + 1048576 + 100;
  const auto good = parse_luks2(metadata(), kBytes);
  REQUIRE_MESSAGE(good, good.error().what);
  CHECK(good->geometry.data_bytes == 1048576);
  CHECK(parse_luks2(changed("\"dynamic\"", "\"8192\""), kBytes)->geometry.data_bytes == 8192);
  const std::pair<const char*, const char*> kBad[] = {
      {"aes-xts-plain64", "cipher_null-ecb"},
      {"aes-xts-plain64", "capi:xts(aes)-plain64"},
      {"\"type\":\"crypt\"", "\"type\":\"linear\""},
      {"\"sector_size\":4096", "\"sector_size\":1024"},
      {"\"sector_size\":4096", "\"sector_size\":4096,\"integrity\":{}"},
      {"\"16777216\"", "\"16777217\""},
      {"\"16777216\"", "\"0\""},
      {"\"16777216\"", "\"-512\""},
      {"\"16777216\"", "\"99999999999\""},
      {"\"16777216\"", "16777216"},
      {"\"dynamic\"", "\"8193\""},
      {"\"dynamic\"", "\"0\""},
      {"\"dynamic\"", "\"1052672\""},
      {"\"iv_tweak\":\"0\"", "\"iv_tweak\":0"},
      // Two readers would number the sectors differently: refused here and by LuksHeader.
      {"\"iv_tweak\":\"0\"", "\"iv_tweak\":\"8\""},
      {"\"iv_tweak\":\"0\"", "\"iv_tweak\":\"18446744073709551615\""},
      {"\"segments\":{\"0\"", "\"segments\":{\"1\""},
      {"\"segments\":{\"0\":", "\"segments\":{\"1\":{},\"0\":"},
      {"\"segments\":[\"0\"]", "\"segments\":[\"1\"]"},
      {"\"digests\":{\"0\"", "\"digests\":{\"1\":{\"segments\":[\"0\"]},\"0\""},
      {"\"hash\":\"sha256\"", "\"hash\":\"sha1\""},
      {"\"iterations\":1000", "\"iterations\":0"},
      {"\"iterations\":1000", "\"iterations\":4000001"},
      {"\"salt\":\"G8gq", "\"salt\":\"G8g"},
      {"\"digest\":\"C9JW", "\"digest\":\""},
      {"\"json_size\"", "\"requirements\":{\"mandatory\":[\"online-reencrypt\"]},\"json_size\""},
      {"{\"keyslots\":{}", "{\"config\":{},\"keyslots\":{}"},
  };
  for (const auto& [from, to] : kBad) {
    CAPTURE(from);
    CAPTURE(to);
    CHECK_FALSE(parse_luks2(changed(from, to), kBytes));
  }
}

}  // namespace
}  // namespace postern::crypt
