#include "policy/seal/seal.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/seal/add.h"
#include "policy/seal/cover.h"
#include "policy/seal/tree.h"
#include "policy/sif/bytes.h"
#include "policy/sif/writer.h"
#include "policy/signature/digest.h"
#include "protocol/base/unique_fd.h"
#include "tests/unit/fresh.h"

namespace {

namespace seal = postern::seal;
namespace sif = postern::sif;
using postern::Fresh;
using postern::UniqueFd;
using postern::VerityGeometry;
using postern::seal::SealText;

class Directory {
 public:
  Directory() { REQUIRE(::mkdtemp(path_.data()) != nullptr); }

  ~Directory() { std::filesystem::remove_all(path_); }

  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  [[nodiscard]] std::string image() const { return path_ + "/image.sif"; }

 private:
  std::string path_ = "/tmp/postern-seal-XXXXXX";
};

std::string some_bytes(std::size_t count) {
  std::string out(count, '\0');
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<char>((i * 2654435761U) >> 11);
  }
  return out;
}

sif::ObjectInput partition_input() {
  sif::ObjectInput input;
  input.type = sif::DataType::kPartition;
  input.extra = sif::PartitionInfo{sif::FileSystem::kSquashfs, sif::PartitionType::kPrimarySystem,
                                   sif::Architecture::kAmd64};
  return input;
}

// An image with a definition file, a partition of these bytes (object 2) and, if asked, its seal.
void make_image(const std::string& path, const std::string& bytes, bool sealed = true) {
  auto writer = sif::Writer::create(path, {});
  REQUIRE(writer);
  sif::ObjectInput definition;
  definition.type = sif::DataType::kDefinition;
  REQUIRE(writer->add(definition, "Bootstrap: scratch\n"));
  REQUIRE(writer->add(partition_input(), bytes));
  REQUIRE(writer->finish());
  if (sealed) {
    auto again = sif::Writer::open(path);
    REQUIRE(again);
    REQUIRE(seal::add_seal(*again, again->descriptors()[1]));
    REQUIRE(again->finish());
  }
}

struct Opened {
  UniqueFd fd;
  sif::Image image;
};

Opened open_image(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  auto image = sif::read(Fresh(fd.get()));
  REQUIRE(image);
  return {std::move(fd), *std::move(image)};
}

auto find(const std::string& path, std::uint32_t id = 2) {
  const Opened opened = open_image(path);
  return seal::find(opened.image, Fresh(opened.fd.get()), **opened.image.object(id));
}

void overwrite(const std::string& path, std::uint64_t at, const std::string& bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  REQUIRE(::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)) ==
          static_cast<ssize_t>(bytes.size()));
}

char byte_at(const std::string& path, std::uint64_t at) {
  char byte = 0;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(::pread(fd.get(), &byte, 1, static_cast<off_t>(at)) == 1);
  return byte;
}

void flip(const std::string& path, std::uint64_t at) {
  overwrite(path, at, std::string(1, static_cast<char>(byte_at(path, at) ^ 1)));
}

// Slot n of the descriptor table.
std::uint64_t slot(std::size_t n) {
  return static_cast<std::uint64_t>(sif::kDefaultTableOffset) + n * sif::kDescriptorBytes;
}

postern::Outcome<> check(const std::string& path) {
  const Opened opened = open_image(path);
  const auto found = seal::find(opened.image, Fresh(opened.fd.get()), **opened.image.object(2));
  REQUIRE(found);
  REQUIRE(*found);
  const VerityGeometry& g = (*found)->geometry;
  const auto extent = *opened.image.extent_of(**opened.image.object(2));
  return seal::check_tree(
      opened.fd.get(),
      {extent.offset, g.data_blocks, g.tree_offset, std::span(g.salt).first(g.salt_bytes)},
      g.root_hash);
}

// The root hash by definition, one block after the other: no levels in files, no threads.
std::array<std::uint8_t, 32> plain_root(std::string level, const std::string& salt) {
  std::array<std::uint8_t, 32> hash{};
  while (true) {
    std::string next;
    for (std::size_t at = 0; at < level.size(); at += seal::kBlockBytes) {
      const auto digest = postern::signature::digest_of(postern::signature::Algorithm::kSha256,
                                                        salt + level.substr(at, seal::kBlockBytes));
      std::copy_n(digest.bytes.begin(), hash.size(), hash.begin());
      next.append(digest.bytes.begin(), digest.bytes.begin() + 32);
    }
    if (next.size() == 32) {
      return hash;
    }
    next.resize((next.size() + seal::kBlockBytes - 1) / seal::kBlockBytes * seal::kBlockBytes);
    level = std::move(next);
  }
}

SealText some_text() {
  SealText text;
  text.relative_id = 1;
  text.tree_relative_id = 2;
  text.data_blocks = 130;
  text.root_hash.fill(0xab);
  text.salt = {1, 2, 3};
  return text;
}

}  // namespace

TEST_SUITE("seal") {
  TEST_CASE("levels of a tree: 128 hashes a block, up to a single block") {
    using Levels = std::vector<std::uint64_t>;
    CHECK(seal::level_blocks(1) == Levels{});
    CHECK(seal::level_blocks(2) == Levels{1});
    CHECK(seal::level_blocks(128) == Levels{1});
    CHECK(seal::level_blocks(129) == Levels{2, 1});
    CHECK(seal::level_blocks(16384) == Levels{128, 1});
    CHECK(seal::level_blocks(16385) == Levels{129, 2, 1});
    CHECK(seal::tree_bytes(16385) == 132 * 4096);
    CHECK(seal::tree_bytes(seal::kMaxDataBlocks) > 0);
  }

  TEST_CASE("a tree's root is the hash of hashes, for one level, several, and many threads") {
    const std::string salt = "0123456789abcdefghijklmnopqrstuv";
    for (const std::size_t blocks : std::to_array<std::size_t>({1, 2, 127, 128, 129, 300, 4097})) {
      CAPTURE(blocks);
      const std::string data = some_bytes(blocks * seal::kBlockBytes);
      const Directory directory;
      make_image(directory.image(), data, false);
      const Opened opened = open_image(directory.image());
      const auto extent = *opened.image.extent_of(**opened.image.object(2));
      const std::uint64_t tree = (extent.offset + extent.bytes + 4095) / 4096 * 4096;
      const std::span<const std::uint8_t> salt_bytes(
          reinterpret_cast<const std::uint8_t*>(salt.data()), salt.size());
      std::uint64_t seen = 0;
      for (const unsigned threads : {1U, 4U}) {
        const auto root = seal::build_tree(
            opened.fd.get(), {extent.offset, blocks, tree, salt_bytes},
            [&](std::uint64_t n) { seen += n; }, threads);
        REQUIRE(root);
        CHECK(*root == plain_root(data, salt));
        CHECK(seal::check_tree(opened.fd.get(), {extent.offset, blocks, tree, salt_bytes}, *root,
                               {}, threads));
      }
      CHECK(seen == 2 * data.size());
    }
  }

  TEST_CASE("a sealed image: found, aligned, whole, and every other tool's objects as before") {
    const Directory directory;
    make_image(directory.image(), some_bytes(300 * 4096));
    const auto found = find(directory.image());
    REQUIRE(found);
    REQUIRE(*found);
    const VerityGeometry& g = (*found)->geometry;
    CHECK(g.data_blocks == 300);
    CHECK(g.tree_offset % 4096 == 0);
    CHECK(g.tree_bytes == 4 * 4096);
    CHECK(g.salt_bytes == 32);
    CHECK((*found)->tree_object == 3);
    CHECK((*found)->seal_object == 4);
    CHECK(check(directory.image()));
    const Opened opened = open_image(directory.image());
    CHECK(opened.image.descriptors().size() == 4);
    CHECK(opened.image.group(1).size() == 4);
    CHECK_FALSE(
        *seal::find(opened.image, Fresh(opened.fd.get()), **opened.image.object(1)));  // not sealed
    CHECK(seal::find_seal(opened.image, Fresh(opened.fd.get()), **opened.image.object(2))
              ->value()
              .data_blocks == 300);
  }

  TEST_CASE("an image without a seal has none, and a partition of broken blocks cannot get one") {
    const Directory directory;
    make_image(directory.image(), some_bytes(4096), false);
    const auto none = find(directory.image());
    REQUIRE(none);
    CHECK_FALSE(none->has_value());
    make_image(directory.image(), some_bytes(4096 + 100), false);
    auto writer = sif::Writer::open(directory.image());
    REQUIRE(writer);
    const auto added = seal::add_seal(*writer, writer->descriptors()[1]);
    REQUIRE_FALSE(added);
    CHECK(added.error().what.find("4196 bytes") != std::string::npos);
    CHECK(writer->descriptors().size() == 2);
  }

  TEST_CASE("one flipped byte anywhere in data or tree is found, and its block is named") {
    const Directory directory;
    const std::string path = directory.image();
    make_image(path, some_bytes(300 * 4096));
    const Opened opened = open_image(path);
    const auto data = *opened.image.extent_of(**opened.image.object(2));
    const auto tree = *opened.image.extent_of(**opened.image.object(3));
    for (const std::uint64_t block : std::to_array<std::uint64_t>({0, 1, 127, 128, 299})) {
      const std::uint64_t at = data.offset + block * 4096 + (block * 31) % 4096;
      flip(path, at);
      const auto result = check(path);
      REQUIRE_FALSE(result);
      CHECK(result.error().what.find("block " + std::to_string(block) + " of the partition") !=
            std::string::npos);
      flip(path, at);
    }
    // Hash blocks: the top one, and the padding of the last leaf block.
    for (const std::uint64_t at :
         {tree.offset + 4096, tree.offset + 2 * 4096 + 5, tree.offset + tree.bytes - 1}) {
      flip(path, at);
      CHECK_FALSE(check(path));
      flip(path, at);
    }
    CHECK(check(path));
  }

  TEST_CASE("a superblock is exactly the seal's, padding included") {
    const SealText text = some_text();
    const std::array<std::uint8_t, 16> uuid = {9, 8, 7};
    const auto good = seal::write_superblock(text, uuid);
    CHECK(seal::check_superblock(good, text));
    for (std::size_t at = 0; at < good.size(); ++at) {
      auto bad = good;
      bad[at] ^= 0x10;
      CAPTURE(at);
      const bool in_uuid = at >= 16 && at < 32;
      CHECK(seal::check_superblock(bad, text).has_value() == in_uuid);
    }
  }

  TEST_CASE("a seal's text: what is written is read, and nothing else") {
    const std::string text = seal::write_seal(some_text());
    const auto again = seal::parse_seal(text);
    REQUIRE(again);
    CHECK(seal::write_seal(*again) == text);
    const auto with = [&](const std::string& from, const std::string& to) {
      std::string out = text;
      REQUIRE(out.find(from) != std::string::npos);
      return out.replace(out.find(from), from.size(), to);
    };
    const std::vector<std::string> bad = {
        "",
        "{}",
        "[]",
        text + text,
        text.substr(0, text.size() - 1),
        with("\"version\":1", "\"version\":2"),
        with("sha256", "sha1"),
        with("4096", "512"),
        with("4096", "4096.0"),
        with("\"dataBlocks\":130", "\"dataBlocks\":0"),
        with("\"dataBlocks\":130", "\"dataBlocks\":-1"),
        with("\"dataBlocks\":130", "\"dataBlocks\":18446744073709551615"),
        with("\"dataBlocks\":130", "\"dataBlocks\":\"130\""),
        with("\"dataBlocks\":130", "\"dataBlocks\":130,\"DATABLOCKS\":131"),
        with("\"relativeId\":1,", ""),
        with("\"relativeId\":1", "\"relativeId\":4294967296"),
        with("\"treeRelativeId\":2", "\"treeRelativeId\":null"),
        with("abab", "AB"),
        with("abab", "ab"),
        with("abab", "zzzz"),
        with("010203", std::string(66, '0')),
        with("010203", "01020"),
        with("\"010203\"", "3"),
        with("\"version\":1", "\"more\":[[[1]]],\"version\":1"),
        with("\"version\":1", "\"x\":\"" + std::string(5000, ' ') + "\",\"version\":1")};
    for (const std::string& wrong : bad) {
      CAPTURE(wrong.substr(0, 300));
      CHECK_FALSE(seal::parse_seal(wrong));
    }
  }

  TEST_CASE("a seal that does not fit its image is an error, never 'not sealed'") {
    const Directory directory;
    const std::string path = directory.image();
    const std::string data = some_bytes(300 * 4096);
    const auto store32 = [&](std::uint64_t at, std::uint32_t value) {
      std::array<std::uint8_t, 4> bytes{};
      sif::store<std::uint32_t>(bytes, 0, value);
      overwrite(path, at, std::string(bytes.begin(), bytes.end()));
    };
    const auto store64 = [&](std::uint64_t at, std::uint64_t value) {
      std::array<std::uint8_t, 8> bytes{};
      sif::store<std::uint64_t>(bytes, 0, value);
      overwrite(path, at, std::string(bytes.begin(), bytes.end()));
    };
    SUBCASE("partition grown after sealing") {
      make_image(path, data);
      store64(slot(1) + sif::kSizeAt, data.size() + 4096);
      CHECK_FALSE(find(path));
    }
    SUBCASE("partition cut") {
      make_image(path, data);
      store64(slot(1) + sif::kSizeAt, data.size() - 4096);
      CHECK_FALSE(find(path));
    }
    SUBCASE("tree of another size") {
      make_image(path, data);
      store64(slot(2) + sif::kSizeAt, 4096);
      CHECK_FALSE(find(path));
    }
    SUBCASE("tree that is not aligned, or outside the file") {
      make_image(path, data);
      const auto offset =
          static_cast<std::uint64_t>(open_image(path).image.descriptors()[2].offset);
      store64(slot(2) + sif::kOffsetAt, offset - 512);
      CHECK_FALSE(find(path));
      store64(slot(2) + sif::kOffsetAt, std::uint64_t{1} << 50);
      CHECK_FALSE(find(path));
    }
    SUBCASE("tree missing, of another type, name or group") {
      make_image(path, data);
      store32(slot(2) + sif::kTypeAt, 0x4006);
      CHECK_FALSE(find(path));
      store32(slot(2) + sif::kTypeAt, 0x4007);
      flip(path, slot(2) + sif::kNameAt);
      CHECK_FALSE(find(path));
      flip(path, slot(2) + sif::kNameAt);
      store32(slot(2) + sif::kGroupAt, 0xF0000002);
      CHECK_FALSE(find(path));
      store32(slot(2) + sif::kGroupAt, 0xF0000001);
      CHECK(find(path));
      overwrite(path, slot(2), std::string(sif::kDescriptorBytes, '\0'));
      CHECK_FALSE(find(path));
    }
    SUBCASE("two seals for one partition") {
      make_image(path, data);
      auto writer = sif::Writer::open(path);
      REQUIRE(seal::add_seal(*writer, writer->descriptors()[1]));
      REQUIRE(writer->finish());
      const auto twice = find(path);
      REQUIRE_FALSE(twice);
      CHECK(twice.error().what.find("twice") != std::string::npos);
    }
    SUBCASE("a tree of another image") {
      make_image(path, data);
      const Directory other;
      make_image(other.image(), some_bytes(300 * 4096 + 4096).substr(4096));
      std::string block(5 * 4096, '\0');
      const Opened from = open_image(other.image());
      REQUIRE(::pread(from.fd.get(), block.data(), block.size(),
                      from.image.descriptors()[2].offset) == static_cast<ssize_t>(block.size()));
      const auto to = static_cast<std::uint64_t>(open_image(path).image.descriptors()[2].offset);
      overwrite(path, to, block);
      CHECK_FALSE(find(path));  // its salt is another
      make_image(path, data);
      overwrite(path, to + 4096, block.substr(4096));  // under our superblock
      CHECK(find(path));
      CHECK_FALSE(check(path));
    }
  }

  TEST_CASE("renumbering a whole image moves its seal along, and never to another partition") {
    const Directory directory;
    const std::string path = directory.image();
    const std::string data = some_bytes(4 * 4096);
    auto writer = sif::Writer::create(path, {});
    REQUIRE(writer);
    REQUIRE(writer->add(partition_input(), data));
    sif::ObjectInput second = partition_input();
    second.extra = sif::PartitionInfo{sif::FileSystem::kSquashfs, sif::PartitionType::kData,
                                      sif::Architecture::kAmd64};
    REQUIRE(writer->add(second, some_bytes(5 * 4096).substr(4096)));
    REQUIRE(writer->finish());
    auto again = sif::Writer::open(path);
    REQUIRE(seal::add_seal(*again, again->descriptors()[1]));  // the second partition
    REQUIRE(again->finish());
    CHECK_FALSE(find(path, 1)->has_value());
    CHECK(find(path, 2)->has_value());
    for (std::size_t n = 4; n-- > 0;) {
      flip(path, slot(n) + sif::kIdAt + 1);  // every id is 256 more
    }
    CHECK_FALSE(find(path, 257)->has_value());
    CHECK(find(path, 258)->has_value());
  }

  TEST_CASE(
      "a part of a sealed partition is checked up to the root hash, and nothing else is read") {
    const Directory directory;
    const std::string path = directory.image();
    // Three levels of hash blocks would take 64 MiB; two are enough to go wrong in.
    std::string bytes(200 * seal::kBlockBytes, '\0');
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<char>(i * 31 / 7);
    }
    make_image(path, bytes);
    const Opened opened = open_image(path);
    const auto extent = *opened.image.extent_of(**opened.image.object(2));
    const auto part = [&](std::uint64_t at, std::uint64_t size) {
      const Opened now = open_image(path);
      postern::Snapshot snapshot(now.fd.get());
      const auto found = seal::find(now.image, snapshot, **now.image.object(2));
      REQUIRE(found);
      REQUIRE(*found);
      return seal::check_covered(snapshot, (*found)->geometry, extent, {extent.offset + at, size})
          .has_value();
    };
    constexpr std::uint64_t kBlock = seal::kBlockBytes;
    CHECK(part(0, 1));
    CHECK(part(0, 16384));
    CHECK(part(127 * kBlock + 5, 2 * kBlock));  // hash blocks 0 and 1
    CHECK(part(199 * kBlock, kBlock));
    flip(path, extent.offset + 130 * kBlock + 9);
    CHECK(part(0, 16384));
    CHECK(part(131 * kBlock, 1));
    CHECK_FALSE(part(130 * kBlock, 1));
    CHECK_FALSE(part(100 * kBlock, 40 * kBlock));
    flip(path, extent.offset + 130 * kBlock + 9);
    const auto found = find(path);
    REQUIRE(found);
    const std::uint64_t top = (*found)->geometry.tree_offset;
    flip(path, top + 3);  // the top block: the hash of the first hash block
    CHECK_FALSE(part(0, 1));
    CHECK_FALSE(part(199 * kBlock, 1));
    flip(path, top + 3);
    flip(path, top + kBlock + 40);  // the first hash block: the hash of data block 1
    CHECK_FALSE(part(0, 1));
    CHECK_FALSE(part(kBlock, 1));
    CHECK(part(128 * kBlock, 1));
  }
}
