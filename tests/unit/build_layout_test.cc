#include <cstring>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/imagebuild/layout.h"
#include "frontend/imagebuild/options.h"
#include "frontend/imagebuild/spec.h"

using postern::imagebuild::elf_architecture;
using postern::imagebuild::environment_script;
using postern::imagebuild::kind_of_head;
using postern::imagebuild::oci_runscript;
using postern::imagebuild::parse_options;
using postern::imagebuild::SourceKind;
using postern::imagebuild::SourceSpec;
using postern::imagebuild::split_transport;
using postern::sif::Architecture;

namespace {

std::string elf(unsigned char wide, unsigned char order, unsigned machine) {
  std::string head(20, '\0');
  std::memcpy(head.data(),
              "\x7f"
              "ELF",
              4);
  head[4] = static_cast<char>(wide);
  head[5] = static_cast<char>(order);
  head[order == 2 ? 19 : 18] = static_cast<char>(machine & 0xff);
  head[order == 2 ? 18 : 19] = static_cast<char>(machine >> 8);
  return head;
}

bool only_bundle(const std::string& path) {
  return path == "image.tar" || path == "with:colon.tar" || path == "dir";
}

}  // namespace

TEST_SUITE("frontend/build") {
  TEST_CASE("OCI variables become lines that need no shell: PATH is set, others are defaults") {
    const std::string script =
        environment_script({"PATH=/bin:/usr/bin", "A=plain", "Q=a\"b`c$d\\e", "EMPTY=", "NOEQUALS",
                            "bad-name=1", "1X=2", "NL=a\nb"});
    CHECK(script.find("export PATH=\"/bin:/usr/bin\"\n") != std::string::npos);
    CHECK(script.find("export A=\"${A:-\"plain\"}\"\n") != std::string::npos);
    CHECK(script.find("export Q=\"${Q:-\"a\\\"b\\`c\\$d\\\\e\"}\"\n") != std::string::npos);
    CHECK(script.find("export EMPTY=\"${EMPTY:-\"\"}\"\n") != std::string::npos);
    CHECK(script.find("export NOEQUALS=\"${NOEQUALS:-\"\"}\"\n") != std::string::npos);
    CHECK(script.find("export NL=\"${NL:-\"a\nb\"}\"\n") != std::string::npos);
    CHECK(script.find("bad-name") == std::string::npos);
    CHECK(script.find("1X") == std::string::npos);
  }

  TEST_CASE("ENTRYPOINT stays, CMD gives way to arguments") {
    CHECK(oci_runscript({"/app", "-x"}, {}).ends_with("exec '/app' '-x' \"$@\"\n"));
    CHECK(oci_runscript({}, {"bash", "-l"})
              .ends_with("[ $# -gt 0 ] || set -- 'bash' '-l'\nexec \"$@\"\n"));
    CHECK(oci_runscript({"/app"}, {"it's"})
              .ends_with("[ $# -gt 0 ] || set -- 'it'\\''s'\nexec '/app' \"$@\"\n"));
    CHECK(oci_runscript({}, {}).ends_with("exec '/bin/sh' \"$@\"\n"));
  }

  TEST_CASE("programs tell their architecture by class, byte order and machine") {
    CHECK(elf_architecture(elf(2, 1, 62)) == Architecture::kAmd64);
    CHECK(elf_architecture(elf(1, 1, 3)) == Architecture::k386);
    CHECK(elf_architecture(elf(2, 1, 183)) == Architecture::kArm64);
    CHECK(elf_architecture(elf(1, 1, 40)) == Architecture::kArm);
    CHECK(elf_architecture(elf(2, 2, 21)) == Architecture::kPpc64);
    CHECK(elf_architecture(elf(2, 1, 21)) == Architecture::kPpc64le);
    CHECK(elf_architecture(elf(1, 2, 8)) == Architecture::kMips);
    CHECK(elf_architecture(elf(2, 1, 8)) == Architecture::kMips64le);
    CHECK(elf_architecture(elf(2, 2, 22)) == Architecture::kS390x);
    CHECK(elf_architecture(elf(2, 1, 243)) == Architecture::kRiscv64);
    CHECK(elf_architecture(elf(2, 1, 258)) == Architecture::kLoong64);
    CHECK(elf_architecture(elf(2, 1, 9999)) == Architecture::kUnknown);
    CHECK(elf_architecture("#!/bin/sh\n0123456789ab") == Architecture::kUnknown);
    CHECK(elf_architecture("\x7f"
                           "ELF") == Architecture::kUnknown);
  }

  TEST_CASE("sources are known by their transport, and file names may contain colons") {
    struct Row {
      const char* text;
      SourceKind kind;
      const char* path;
      const char* reference;
    };

    const std::vector<Row> rows = {
        {"docker-archive:image.tar", SourceKind::kDockerArchive, "image.tar", ""},
        {"docker-archive://image.tar", SourceKind::kDockerArchive, "image.tar", ""},
        {"docker-archive:image.tar:name:tag", SourceKind::kDockerArchive, "image.tar", "name:tag"},
        {"oci-archive:with:colon.tar", SourceKind::kOciArchive, "with:colon.tar", ""},
        {"oci-archive:with:colon.tar:v1", SourceKind::kOciArchive, "with:colon.tar", "v1"},
        {"oci:dir:latest", SourceKind::kOciLayout, "dir", "latest"},
        {"oci:missing:x", SourceKind::kOciLayout, "missing:x", ""},
        {"dir:some:where", SourceKind::kDirectory, "some:where", ""},
    };
    for (const Row& row : rows) {
      CAPTURE(row.text);
      SourceSpec spec;
      const auto known = split_transport(row.text, only_bundle, spec);
      REQUIRE(known);
      CHECK(*known);
      CHECK(spec.kind == row.kind);
      CHECK(spec.path == row.path);
      CHECK(spec.reference == row.reference);
    }
    SourceSpec spec;
    const auto plain = split_transport("image.tar", only_bundle, spec);
    REQUIRE(plain);
    CHECK_FALSE(*plain);
    for (const char* remote :
         {"docker-daemon:alpine:3", "containers-storage:x", "ipfs://x", "shub://x"}) {
      CAPTURE(remote);
      const auto refused = split_transport(remote, only_bundle, spec);
      REQUIRE_FALSE(refused);
      CHECK_FALSE(refused.error().cure.empty());
    }
    const std::pair<const char*, SourceKind> fetched[] = {{"docker://alpine", SourceKind::kDocker},
                                                          {"oras://x/y", SourceKind::kOras},
                                                          {"library://a", SourceKind::kLibrary},
                                                          {"https://h/f.sif", SourceKind::kHttp}};
    for (const auto& [uri, kind] : fetched) {
      CAPTURE(uri);
      const auto split = split_transport(uri, only_bundle, spec);
      REQUIRE(split);
      CHECK(spec.kind == kind);
    }
  }

  TEST_CASE("files are known by their first bytes") {
    CHECK(kind_of_head("hsqs\x01") == SourceKind::kSquashfs);
    CHECK(kind_of_head(std::string(32, '\0') + "SIF_MAGIC") == SourceKind::kSif);
    CHECK(kind_of_head("# comment\n\n  BootStrap: localimage\nFrom: x\n") ==
          SourceKind::kDefinition);
    CHECK(kind_of_head("\x1f\x8b\x08") == SourceKind::kTar);
    CHECK(kind_of_head("FROM alpine\nRUN true\n") == SourceKind::kDefinition);
    CHECK(kind_of_head("Form: base.sif\n") == SourceKind::kDefinition);
    CHECK(kind_of_head("Bootstrap: docker\nFrom: x\n%post\n\x01") == SourceKind::kDefinition);
    CHECK(kind_of_head(std::string("Bootstrap: docker\nFrom: \0", 25)) == SourceKind::kDefinition);
    CHECK(kind_of_head(std::string("name of a file\0", 15)) == SourceKind::kTar);
    CHECK(kind_of_head(std::string("bootstrap: x\0\n", 14)) == SourceKind::kTar);
    CHECK(kind_of_head(std::string("bootstrap\0", 10)) == SourceKind::kTar);
  }

  TEST_CASE("mksquashfs arguments that mean something are taken, others are errors") {
    const auto with = [](const char* text) {
      return parse_options(std::vector<std::string>{"--mksquashfs-args", text, "out", "in"},
                           nullptr);
    };
    const auto good =
        with("-comp gzip -b 1M -Xcompression-level 3 -all-root -noappend -processors 2");
    REQUIRE(good);
    CHECK(good->squash.compression == postern::imagebuild::Compression::kGzip);
    CHECK(good->squash.block_bytes == 1048576);
    CHECK(good->squash.level == 3U);
    CHECK(good->squash.all_root);
    CHECK(good->squash.threads == 2);
    for (const char* bad :
         {"-comp brotli", "-b 100", "-b 2M", "-b 3K", "-b", "-e file",
          "-comp gzip -Xcompression-level 10", "-Xcompression-level 0", "-processors 0", "word"}) {
      CAPTURE(bad);
      const auto refused = with(bad);
      REQUIRE_FALSE(refused);
      CHECK(refused.error().exit_code == 1);
    }
    CHECK(with("-comp zstd -Xcompression-level 22"));
    CHECK_FALSE(parse_options(std::vector<std::string>{"out"}, nullptr));
    CHECK_FALSE(parse_options(std::vector<std::string>{"--arch", "pdp11", "out", "in"}, nullptr));
    CHECK_FALSE(parse_options(std::vector<std::string>{"--update", "out", "in"}, nullptr));
    CHECK_FALSE(parse_options(std::vector<std::string>{"--docker-login", "out", "in"}, nullptr));
  }
}
