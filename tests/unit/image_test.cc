#include "policy/image/image.h"

#include <cstdlib>
#include <filesystem>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "tests/unit/fresh.h"
#include "tests/unit/sif_bytes.h"

namespace postern::image {
namespace {

using sif::Architecture;
using sif_bytes::file_of;
using sif_bytes::le;
using sif_bytes::put;

// A superblock that describes 4096 bytes: inode table at 96, the others behind it.
std::string superblock() {
  std::string b(4096, '\0');
  put(b, 0, "hsqs");
  put(b, 4, le(1, 4));        // inodes
  put(b, 12, le(131072, 4));  // block size
  put(b, 20, le(6, 2));       // zstd
  put(b, 22, le(17, 2));      // log2
  put(b, 26, le(1, 2));       // ids
  put(b, 28, le(4, 2));       // 4.0
  put(b, 40, le(1000, 8));    // bytes used
  put(b, 48, le(700, 8));     // id table
  put(b, 56, le(~0ULL, 8));   // no xattrs
  put(b, 64, le(96, 8));      // inode table
  put(b, 72, le(300, 8));     // directory table
  put(b, 80, le(400, 8));     // fragment table
  put(b, 88, le(~0ULL, 8));   // no export table
  return b;
}

std::string sif_with_root(const std::string& root, std::uint32_t fs) {
  std::string file = sif_bytes::two_objects();
  file.resize(36864);
  put(file, 4096 + 585 + 25, le(root.size(), 8));
  put(file, 4096 + 585 + 201, sif_bytes::partition(fs, 2, "02"));
  return file + root;
}

std::string refusal(const std::string& file) {
  const auto info = identify(Fresh(file_of(file).get()));
  REQUIRE_FALSE(info);
  return info.error().what;
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_SUITE("policy/image") {
  TEST_CASE("a directory, a SIF and a bare squashfs are told apart by content") {
    const UniqueFd directory(::open("/tmp", O_PATH | O_CLOEXEC));
    CHECK(identify(Fresh(directory.get()))->kind == Kind::kDirectory);

    const auto bare = identify(Fresh(file_of(superblock()).get()));
    REQUIRE(bare);
    CHECK(bare->kind == Kind::kSquashfs);
    CHECK(bare->extent.offset == 0);
    CHECK(bare->extent.bytes == 4096);
    CHECK(bare->squashfs->compression == Compression::kZstd);
    CHECK(bare->squashfs->bytes_used == 1000);

    const auto sif = identify(Fresh(file_of(sif_with_root(superblock(), 1)).get()));
    REQUIRE(sif);
    CHECK(sif->kind == Kind::kSif);
    CHECK(sif->extent.offset == 36864);
    CHECK(sif->extent.bytes == 4096);
    CHECK(sif->architecture == Architecture::kAmd64);
    CHECK(sif->root_object == 2);
    CHECK(sif->root_group == 1);
    CHECK_FALSE(sif->encrypted);
  }

  TEST_CASE("a launch line in front of a bare squashfs is skipped") {
    const std::string line = "#!/usr/bin/env run-singularity\n";
    const auto info = identify(Fresh(file_of(line + superblock()).get()));
    REQUIRE(info);
    CHECK(info->extent.offset == line.size());
    CHECK(info->extent.bytes == 4096);
    CHECK(contains(refusal("#!/bin/sh\n" + superblock()), "unknown image format"));
  }

  TEST_CASE("the real image of another implementation is recognised") {
    const UniqueFd fd(::open(POSTERN_TEST_DATA "/images/busybox_amd64.sif", O_RDONLY | O_CLOEXEC));
    const auto info = identify(Fresh(fd.get()));
    REQUIRE(info);
    CHECK(info->extent.offset == 45056);
    CHECK(info->extent.bytes == 745472);
    CHECK(info->squashfs->compression == Compression::kGzip);
    CHECK(info->sif->descriptors().size() == 5);
  }

  TEST_CASE("the fuzz corpus mutates files that are valid before") {
    for (const char* name : {"good", "launch-line-before-root", "luks-root"}) {
      CAPTURE(name);
      const std::string path = std::string(POSTERN_TEST_DATA "/../../fuzz/corpus/sif/") + name;
      const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      CHECK(identify(Fresh(fd.get())).has_value());
    }
  }

  TEST_CASE("encrypted images: LUKS2 is recognised, gocryptfs is refused with the cure") {
    const auto luks = identify(Fresh(file_of(sif_with_root(std::string(4096, 'L'), 5)).get()));
    REQUIRE(luks);
    CHECK(luks->encrypted);
    CHECK_FALSE(luks->squashfs.has_value());
    const auto gocryptfs = identify(Fresh(file_of(sif_with_root(superblock(), 6)).get()));
    REQUIRE_FALSE(gocryptfs);
    CHECK(contains(gocryptfs.error().what, "gocryptfs"));
    CHECK(contains(gocryptfs.error().cure, "postern encrypt"));
  }

  TEST_CASE("what cannot be run is refused with its reason") {
    std::string ext(4096, '\0');
    put(ext, 1080, le(0xef53, 2));
    CHECK(contains(refusal(ext), "ext3"));
    CHECK(contains(refusal(sif_with_root(ext, 2)), "ext3"));
    CHECK(contains(refusal(sif_with_root(superblock(), 3)), "Archive"));
    CHECK(contains(refusal(sif_with_root(superblock(), 4)), "Raw"));
    CHECK(contains(refusal(sif_with_root(superblock(), 99)), "99"));
    CHECK(contains(refusal(sif_with_root(std::string(4096, 'x'), 1)), "magic"));
    CHECK(contains(refusal(""), "empty"));
    CHECK(contains(refusal(std::string(5000, 'x')), "unknown image format"));
    CHECK(contains(refusal(sif_bytes::header()), "no root file system"));
    // SIF_MAGIC anywhere in the first 2048 bytes makes it a SIF for good.
    std::string shifted(4096, 'x');
    put(shifted, 1000, "SIF_MAGIC");
    CHECK(contains(refusal(shifted), "not a valid SIF image"));
    const UniqueFd device(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    CHECK(contains(identify(Fresh(device.get())).error().what, "neither"));
  }

  TEST_CASE("overlay partitions of the root's group are listed, others and broken ones are not") {
    std::string file = sif_with_root(superblock(), 1);
    const std::size_t overlay = file.size();
    file += superblock();
    sif_bytes::object(file, 2, 0x4004, overlay, 4096, "", sif_bytes::partition(1, 4, "02"));
    sif_bytes::object(file, 3, 0x4004, overlay, 4096, "", sif_bytes::partition(1, 4, "02"),
                      0xF0000002);
    auto info = identify(Fresh(file_of(file).get()));
    REQUIRE(info);
    REQUIRE(info->overlays.size() == 1);
    CHECK(info->overlays[0].object == 3);
    CHECK(info->overlays[0].extent.offset == overlay);
    put(file, overlay, "xxxx");
    info = identify(Fresh(file_of(file).get()));
    REQUIRE(info);
    CHECK(info->overlays.empty());
  }

  TEST_CASE("each field of the superblock is checked") {
    struct Row {
      std::size_t at;
      std::string value;
      const char* words;
    };

    const Row rows[] = {
        {28, le(3, 2), "version 3.0"},       {30, le(1, 2), "version 4.1"},
        {12, le(2048, 4), "block size"},     {12, le(131073, 4), "block size"},
        {12, le(1U << 21, 4), "block size"}, {22, le(16, 2), "block size"},
        {22, le(63, 2), "block size"},       {20, le(0, 2), "compression 0"},
        {20, le(7, 2), "compression 7"},     {40, le(4097, 8), "needs 4097"},
        {40, le(95, 8), "needs 95"},         {40, le(~0ULL, 8), "needs"},
        {4, le(0, 4), "no files"},           {26, le(0, 2), "no files"},
        {64, le(95, 8), "inode table"},      {64, le(~0ULL, 8), "inode table"},
        {72, le(90, 8), "directory table"},  {72, le(1000, 8), "directory table"},
        {80, le(200, 8), "fragment table"},  {88, le(100, 8), "export table"},
        {48, le(1000, 8), "id table"},       {48, le(~0ULL, 8), "id table"},
        {56, le(600, 8), "xattr table"},     {32, le(204ULL << 16, 8), "root directory"},
        {32, le(8192, 8), "root directory"},
    };
    for (const Row& row : rows) {
      CAPTURE(row.at);
      CAPTURE(row.words);
      std::string b = superblock();
      put(b, row.at, row.value);
      CHECK(contains(refusal(b), row.words));
    }
    for (const std::size_t size : {0U, 4U, 95U}) {
      CAPTURE(size);
      CHECK_FALSE(identify(Fresh(file_of(superblock().substr(0, size)).get())));
    }
  }

  TEST_CASE("architectures: the same, the 32-bit sibling, or one with an interpreter") {
    CHECK(runs_on(Architecture::kUnknown, Architecture::kAmd64, {}));
    CHECK(runs_on(Architecture::kAmd64, Architecture::kAmd64, {}));
    CHECK(runs_on(Architecture::k386, Architecture::kAmd64, {}));
    CHECK_FALSE(runs_on(Architecture::kAmd64, Architecture::k386, {}));
    CHECK_FALSE(runs_on(Architecture::kArm64, Architecture::kAmd64, {}));
    CHECK(runs_on(Architecture::kArm, Architecture::kArm64, {}));
    CHECK(runs_on(Architecture::kMipsle, Architecture::kMips64le, {}));
    CHECK_FALSE(runs_on(Architecture::kMipsle, Architecture::kMips64, {}));
    CHECK(runs_on(Architecture::kArm64, Architecture::kAmd64, {Architecture::kArm64}));
    const auto foreign = sif::host_architecture() == Architecture::kS390x ? Architecture::kLoong64
                                                                          : Architecture::kS390x;
    const auto refused = check_architecture(foreign);
    if (!refused) {
      CHECK(contains(refused.error().what, "the image targets '"));
      CHECK(contains(refused.error().what, "', cannot run on '"));
    }
  }

  TEST_CASE("an interpreter counts when it is enabled, persistent and for an ELF machine") {
    const std::string aarch64 =
        "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n"
        "magic 7f454c460201010000000000000000000200b700\n"
        "mask ffffffffffffff00fffffffffffffffffeffffff\n";
    CHECK(parse_interpreter(aarch64) == Architecture::kArm64);
    const auto with = [&](std::string_view old, std::string_view fresh) {
      std::string text = aarch64;
      return parse_interpreter(text.replace(text.find(old), old.size(), fresh));
    };
    CHECK(with("enabled", "disabled") == Architecture::kUnknown);
    CHECK(with("POCF", "POC") == Architecture::kUnknown);
    CHECK(with("7f45", "0045") == Architecture::kUnknown);
    CHECK(with("b700", "00b7") == Architecture::kUnknown);
    CHECK(with("0200b700", "0200f300") == Architecture::kRiscv64);
    CHECK(parse_interpreter("enabled\n") == Architecture::kUnknown);
    CHECK(parse_interpreter("") == Architecture::kUnknown);
    CHECK(interpreters("/nonexistent").empty());
  }
}

}  // namespace postern::image
