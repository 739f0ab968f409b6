#include "protocol/launch_codec.h"

#include <cstring>
#include <random>

#include <doctest/doctest.h>

#include "tests/unit/launch_samples.h"

namespace postern {
namespace {

LaunchRequest full_request() {
  LaunchRequest request;
  request.root = RootKind::kImage;
  request.scratch = Scratch::kDirectory;
  request.scratch_bytes = 1 << 20;
  request.upper = 4;
  request.volume_key = 5;
  request.join_net = 6;
  request.namespaces = CLONE_NEWUTS | CLONE_NEWPID;
  request.capabilities = 0x400;
  request.hostname = "node";
  request.layers = {{RootKind::kFuse, 7}, {RootKind::kDirectory, 8}};
  request.mounts = sample_request().mounts;
  request.mounts.push_back({.operation = Operation::kTmpfs,
                            .flags = kDirectoryTarget,
                            .target = "/t",
                            .mode = 01777,
                            .size = 99});
  request.init = 1;
  request.record = 2;
  return request;
}

bool same(const LaunchRequest& a, const LaunchRequest& b) {
  const auto mount_same = [](const MountRequest& x, const MountRequest& y) {
    return x.operation == y.operation && x.flags == y.flags && x.descriptor == y.descriptor &&
           x.target == y.target && x.mode == y.mode && x.size == y.size;
  };
  const auto layer_same = [](const LayerRequest& x, const LayerRequest& y) {
    return x.kind == y.kind && x.descriptor == y.descriptor;
  };
  return a.root == b.root && a.scratch == b.scratch && a.writable_root == b.writable_root &&
         a.scratch_bytes == b.scratch_bytes && a.upper == b.upper && a.volume_key == b.volume_key &&
         a.join_net == b.join_net && a.namespaces == b.namespaces &&
         a.capabilities == b.capabilities && a.hostname == b.hostname && a.init == b.init &&
         a.record == b.record &&
         std::equal(a.layers.begin(), a.layers.end(), b.layers.begin(), b.layers.end(),
                    layer_same) &&
         std::equal(a.mounts.begin(), a.mounts.end(), b.mounts.begin(), b.mounts.end(), mount_same);
}

RefusalCode refusal_of(const std::vector<std::byte>& bytes, std::size_t descriptors) {
  const auto decoded = decode(bytes, descriptors);
  return decoded ? RefusalCode::kNone : decoded.error().code;
}

TEST_CASE("what is encoded is decoded") {
  const LaunchRequest request = full_request();
  const auto bytes = encode(request, 9);
  REQUIRE(bytes);
  const auto back = decode(*bytes, 9);
  REQUIRE(back);
  CHECK(same(request, *back));
}

TEST_CASE("the writable root survives") {
  LaunchRequest request = sample_request();
  request.root = RootKind::kDirectory;
  request.scratch = Scratch::kNone;
  request.writable_root = true;
  const auto bytes = encode(request, 4);
  REQUIRE(bytes);
  const auto back = decode(*bytes, 4);
  REQUIRE(back);
  CHECK(back->writable_root);
}

TEST_CASE("a request is not encoded in a form that would be refused") {
  CHECK_FALSE(encode(full_request(), 8));
  LaunchRequest request = sample_request();
  std::string long_target;
  while (long_target.size() < 4000) {
    long_target += "/" + std::string(99, 't');
  }
  while (request.mounts.size() < 140) {
    request.mounts.push_back({.operation = Operation::kTmpfs, .target = long_target});
  }
  const auto bytes = encode(request, 4);  // well-formed, but longer than a datagram
  REQUIRE_FALSE(bytes);
  CHECK(bytes.error().code == RefusalCode::kMalformedRequest);
}

TEST_CASE("a wrong number of descriptors is refused") {
  const auto bytes = encode(full_request(), 9);
  REQUIRE(bytes);
  CHECK(refusal_of(*bytes, 0) == RefusalCode::kDescriptorCount);
  CHECK(refusal_of(*bytes, 8) == RefusalCode::kDescriptorCount);
  CHECK(refusal_of(*bytes, 10) == RefusalCode::kDescriptorCount);
  CHECK(refusal_of(*bytes, 251) == RefusalCode::kDescriptorCount);
}

TEST_CASE("every truncation and every trailing word is refused") {
  const auto bytes = encode(full_request(), 9);
  REQUIRE(bytes);
  for (std::size_t size = 0; size < bytes->size(); ++size) {
    CAPTURE(size);
    CHECK(refusal_of({bytes->begin(), bytes->begin() + static_cast<std::ptrdiff_t>(size)}, 9) ==
          RefusalCode::kMalformedRequest);
  }
  std::vector<std::byte> longer = *bytes;
  longer.resize(longer.size() + 8);
  CHECK(refusal_of(longer, 9) == RefusalCode::kMalformedRequest);
  const auto words = static_cast<std::uint32_t>(longer.size() / 8 - 1);
  std::memcpy(longer.data() + 4, &words, sizeof words);  // the table admits the extra word
  CHECK(refusal_of(longer, 9) == RefusalCode::kMalformedRequest);
  longer.assign(kMaxRequestBytes + 8, std::byte{0});
  CHECK(refusal_of(longer, 9) == RefusalCode::kMalformedRequest);
}

TEST_CASE("another protocol version says so") {
  auto bytes = encode(sample_request(), 4);
  REQUIRE(bytes);
  // Segment table, root pointer, then the data section, whose first field is the version.
  REQUIRE((*bytes)[16] == std::byte{kWireVersion});
  (*bytes)[16] = std::byte{kWireVersion + 1};
  CHECK(refusal_of(*bytes, 4) == RefusalCode::kProtocolVersion);
}

TEST_CASE("no flipped bit goes unnoticed: it is refused, or it is another request") {
  const LaunchRequest request = full_request();
  const auto bytes = encode(request, 9);
  REQUIRE(bytes);
  unsigned accepted = 0;
  for (std::size_t bit = 0; bit < bytes->size() * 8; ++bit) {
    std::vector<std::byte> changed = *bytes;
    changed[bit / 8] ^= std::byte(1U << (bit % 8));
    const auto back = decode(changed, 9);
    if (back) {
      ++accepted;
      CAPTURE(bit);
      CHECK_FALSE(same(request, *back));
    }
  }
  CHECK(accepted > 0);  // letters of a path, bits of a size
}

TEST_CASE("noise is refused and nothing escapes") {
  std::mt19937 random(7);
  const auto good = encode(full_request(), 9);
  REQUIRE(good);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> noise = *good;
    for (int i = 0; i < 1 + round % 24; ++i) {
      noise[random() % noise.size()] = std::byte(random() & 0xff);
    }
    const auto back = decode(noise, 9);
    if (back) {
      const auto again = encode(*back, 9);
      REQUIRE(again);
      CHECK(*again == noise);
    }
  }
}

}  // namespace
}  // namespace postern
