#include "frontend/sif/sif_command.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/sif/print.h"
#include "policy/sif/sha256.h"
#include "tests/unit/in_child.h"
#include "tests/unit/sif_bytes.h"

namespace postern::sif {
namespace {

const std::string kImages = POSTERN_TEST_DATA "/images/";

struct Ran {
  int status;
  std::string out;
  std::string err;
};

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Scratch {
  Scratch() { REQUIRE(::mkdtemp(path.data()) != nullptr); }

  ~Scratch() { std::filesystem::remove_all(path); }

  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path = "/tmp/postern-sifc-XXXXXX";
};

// The command in a child whose output goes to files.
Ran sif(const std::vector<std::string>& words) {
  const Scratch dir;
  std::fflush(stdout);  // or the child writes the parent's pending output too
  const int status = in_child([&] {
    const int out = ::open((dir.path + "/out").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    const int err = ::open((dir.path + "/err").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ::dup2(out, 1);
    ::dup2(err, 2);
    const int rc = sif_command(words);
    std::fflush(stdout);
    return rc;
  });
  return {WEXITSTATUS(status), contents(dir.path + "/out"), contents(dir.path + "/err")};
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace

TEST_SUITE("frontend/sif") {
  TEST_CASE("header, list and info print what other SIF tools print") {
    CHECK(sif({"header", kImages + "one-group-signed-pgp.sif"}).out ==
          "Launch Script:        #!/usr/bin/env run-singularity\n"
          "Version:              01\n"
          "Primary Architecture: 386\n"
          "ID:                   73e1c5c3-5c41-41ed-ad7c-2504d669f140\n"
          "Created At:           2020-06-30 00:01:56 +0000 UTC\n"
          "Modified At:          2022-04-28 18:26:53 +0000 UTC\n"
          "Descriptors Free:     45\n"
          "Descriptors Total:    48\n"
          "Descriptors Offset:   4096\n"
          "Descriptors Size:     27 KiB\n"
          "Data Offset:          32768\n"
          "Data Size:            13 KiB\n");
    CHECK(sif({"header", kImages + "one-group-signed-dsse.sif"}).out.starts_with("Version:  "));
    CHECK(sif({"list", kImages + "one-group-signed-legacy-all.sif"}).out ==
          "------------------------------------------------------------------------------\n"
          "ID   |GROUP   |LINK    |SIF POSITION (start-end)  |TYPE\n"
          "------------------------------------------------------------------------------\n"
          "1    |1       |NONE    |32768-32772               |FS (Raw/System/386)\n"
          "2    |1       |NONE    |36864-36868               |FS (Squashfs/*System/386)\n"
          "3    |1       |1       |45056-46011               |Signature (SHA-384)\n"
          "4    |1       |2       |49152-50107               |Signature (SHA-384)\n");
    CHECK(contains(sif({"list", kImages + "busybox_amd64.sif"}).out,
                   "5    |NONE    |1   (G) |790528-792293             |Signature (SHA-256)\n"));
    CHECK(sif({"info", "2", kImages + "one-group-signed-dsse.sif"}).out ==
          "  Data Type:        FS\n"
          "  ID:               2\n"
          "  Group ID:         1\n"
          "  Linked ID:        NONE\n"
          "  Offset:           36864\n"
          "  Size:             4096\n"
          "  Filesystem Type:  Squashfs\n"
          "  Partition Type:   *System\n"
          "  Architecture:     386\n");
    CHECK(
        contains(sif({"info", "5", kImages + "busybox_amd64.sif"}).out, "  Linked ID:    1 (G)\n"));
    CHECK(
        contains(sif({"info", "5", kImages + "busybox_amd64.sif"}).out, "Hash Type:    SHA-256\n"));
  }

  TEST_CASE("dump writes the object's bytes and nothing else") {
    const Ran ran = sif({"dump", "2", kImages + "busybox_amd64.sif"});
    CHECK(ran.status == 0);
    CHECK(ran.out == contents(kImages + "busybox_amd64.sif").substr(36864, 1896));
    CHECK(ran.err.empty());
  }

  TEST_CASE("new, add, setprim and del work together") {
    const Scratch dir;
    const std::string image = dir.path + "/a.sif";
    const std::string data = dir.path + "/root.squashfs";
    std::ofstream(data) << "abc";
    CHECK(sif({"new", image}).status == 0);
    CHECK(sif({"add", "--datatype", "1", image, data}).status == 0);
    CHECK(sif({"add", image, data, "--datatype", "4", "--partfs", "1", "--parttype", "2",
               "--partarch", "2", "--filename", "root", "--groupid", "1"})
              .status == 0);
    CHECK(sif({"add", "--datatype=4", "--partfs=1", "--parttype=1", "--partarch=4", "--link=1",
               "--alignment=512", image, data})
              .status == 0);
    CHECK(sif({"add", "--datatype=5", "--signhash=1", "--signentity",
               "433FE984155206BD962725E20E8713472A879943", image, data})
              .status == 0);
    CHECK(sif({"add", "--datatype=9", "--sbomformat=spdx-json", image, data}).status == 0);
    CHECK(sif({"add", "--datatype=11", image, data}).status == 0);
    CHECK(sif({"add", "--datatype=8", image, data}).status == 0);
    const std::string list = sif({"list", image}).out;
    CHECK(contains(list, "1    |NONE    |NONE    |32176-32179               |Def.FILE\n"));
    CHECK(contains(
        list, "2    |1       |NONE    |32768-32771               |FS (Squashfs/*System/amd64)\n"));
    CHECK(contains(
        list, "3    |NONE    |1       |33280-33283               |FS (Squashfs/System/arm64)\n"));
    CHECK(contains(list, "5    |NONE    |NONE    |33286-33289               |SBOM (spdx-json)\n"));
    CHECK(contains(sif({"info", "1", image}).out, "Name:         root.squashfs\n"));
    CHECK(contains(sif({"info", "2", image}).out, "Name:             root\n"));
    CHECK(contains(sif({"info", "4", image}).out, "433FE984155206BD962725E20E8713472A879943"));
    // sha256 of "abc" is FIPS 180-4's own example.
    CHECK(contains(sif({"info", "6", image}).out,
                   "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"));
    CHECK(sif({"setprim", "3", image}).status == 0);
    CHECK(contains(sif({"list", image}).out, "FS (Squashfs/*System/arm64)"));
    CHECK(contains(sif({"header", image}).out, "Primary Architecture: arm64"));
    CHECK(sif({"del", "3", image}).status == 0);
    CHECK_FALSE(contains(sif({"list", image}).out, "arm64"));
    CHECK(sif({"dump", "1", image}).out == "abc");
  }

  TEST_CASE("errors exit 1 with one line that names the file; wrong usage shows the usage") {
    const Scratch dir;
    const std::string image = dir.path + "/a.sif";
    REQUIRE(sif({"new", image}).status == 0);
    const auto fails = [](const std::vector<std::string>& words, std::string_view part) {
      CAPTURE(words.empty() ? std::string("no arguments") : words.front());
      const Ran ran = sif(words);
      CHECK(ran.status == 1);
      CHECK(ran.out.empty());
      CAPTURE(ran.err);
      CHECK(contains(ran.err, part));
      CHECK(ran.err.starts_with("ERROR:   "));
      return ran.err;
    };
    const std::string gone = fails({"list", dir.path + "/gone.sif"}, "No such file");
    CHECK(std::count(gone.begin(), gone.end(), '\n') == 1);
    fails({"list", "/etc/passwd"}, "/etc/passwd: not a valid SIF image");
    fails({"list", "/"}, "regular file");
    fails({"info", "7", image}, "no object 7");
    fails({"dump", "0", image}, "0 is not an object id");
    fails({"del", "1", image}, "no object 1");
    fails({"setprim", "1", image}, "no object 1");
    fails({"info", "x", image}, "Usage");
    fails({"info", "4294967296", image}, "Usage");
    fails({"info", "--", "-1", image}, "Usage");
    fails({"list", "--datatype=1", image}, "Usage");
    fails({"header"}, "Usage");
    fails({"header", image, image}, "Usage");
    fails({"add", image, "/dev/null"}, "--datatype");
    fails({"add", "--datatype=12", image, "/dev/null"}, "--datatype");
    fails({"add", "--datatype=4", image, "/dev/null"}, "--parttype");
    fails({"add", "--datatype=5", image, "/dev/null"}, "--signhash");
    fails({"add", "--datatype=5", "--signhash=1", "--signentity=12", image, "/dev/null"}, "40");
    fails({"add", "--datatype=5", "--signhash=1", "--signentity", std::string(40, 'g'), image,
           "/dev/null"},
          "hexadecimal");
    fails({"add", "--datatype=9", image, "/dev/null"}, "--sbomformat");
    fails({"add", "--datatype=7", image, dir.path + "/gone"}, "No such file");
    fails({"nonsense"}, "Usage");
    fails({}, "Usage");
    CHECK(sif({"--help"}).status == 0);
    CHECK(contains(sif({"add", "--help"}).out, "--signentity"));
  }

  TEST_CASE("a name from an image cannot steer the terminal") {
    const Scratch dir;
    std::string file = sif_bytes::header();
    sif_bytes::object(file, 0, 0x4007, 32176, 0, "\x1b[31mred\n", "");
    std::ofstream(dir.path + "/a.sif", std::ios::binary) << file;
    CHECK(contains(sif({"info", "1", dir.path + "/a.sif"}).out, "\\x1b[31mred\\x0a\n"));
  }

  TEST_CASE("an image whose free count lies is listed with a warning") {
    const Scratch dir;
    std::string file = sif_bytes::two_objects();
    sif_bytes::put(file, 80, sif_bytes::le(sif_bytes::kSlots, 8));
    std::ofstream(dir.path + "/a.sif", std::ios::binary) << file;
    const Ran ran = sif({"list", dir.path + "/a.sif"});
    CHECK(ran.status == 0);
    CHECK(contains(ran.out, "Def.FILE"));
    CHECK(contains(ran.err, "WARNING:"));
  }

  TEST_CASE("times and sizes at the edges") {
    CHECK(time_text(0) == "1970-01-01 00:00:00 +0000 UTC");
    CHECK(time_text(INT64_MAX) == "9223372036854775807");
    CHECK(size_text(0) == "0 B");
    CHECK(size_text(1023) == "1023 B");
    CHECK(size_text(28080) == "27 KiB");
    CHECK(size_text(INT64_MAX) == "7 EiB");
    CHECK(size_text(-5) == "-5 B");
  }

  TEST_CASE("SHA-256 gives the digests of the standard, however the input is cut") {
    Sha256 empty;
    CHECK(hex(empty.finish()) ==
          "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    const std::vector<std::uint8_t> million(1000000, 'a');
    Sha256 pieces;
    for (std::size_t at = 0; at < million.size(); at += 9973) {
      pieces.update(
          std::span(million).subspan(at, std::min<std::size_t>(9973, million.size() - at)));
    }
    CHECK(hex(pieces.finish()) ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}
}  // namespace postern::sif
