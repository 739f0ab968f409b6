#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/inspect/collect.h"
#include "policy/sif/writer.h"
#include "policy/text/printable.h"
#include "tests/unit/in_child.h"

namespace postern::inspect {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// A root file system with every part, and links that try to leave it.
struct Root {
  Root() {
    REQUIRE(::mkdtemp(path.data()) != nullptr);
    const fs::path top = tree();
    write(top / ".singularity.d/labels.json", R"({"maintainer":"me","count":3})");
    write(top / ".singularity.d/runscript", "#!/bin/sh\nexec \"$@\"\n\n");
    write(top / ".singularity.d/startscript", "start\n");
    write(top / ".singularity.d/runscript.help", "some help\n");
    write(top / ".singularity.d/Singularity", "bootstrap: scratch\n");
    write(top / ".singularity.d/env/01-base.sh", "not shown");
    write(top / ".singularity.d/env/10-docker2singularity.sh", "export A=1\n");
    write(top / ".singularity.d/env/90-environment.sh", "export B=2\n");
    write(top / ".singularity.d/env/99-base.sh", "not shown");
    fs::create_symlink("../usr/share/test.sh", top / ".singularity.d/test");
    write(top / "usr/share/test.sh", "tested through a link\n");
    write(top / "scif/apps/foo/scif/runscript", "run foo\n");
    write(top / "scif/apps/foo/scif/env/90-environment.sh", "export FOO=1\n");
    fs::create_symlink("/scif/apps/foo", top / "scif/apps/bar");
    write(fs::path(path) / "outside", "secret");
    fs::create_directories(top / "scif/apps/escape/scif");
    fs::create_symlink("../../../../../outside", top / "scif/apps/escape/scif/runscript");
    fs::create_symlink("test", top / "scif/apps/escape/scif/test");
    fs::create_symlink("/etc/passwd", top / "scif/apps/escape/scif/runscript.help");
    fs::create_directories(top / "scif/apps/no-scif-folder");
  }

  ~Root() { fs::remove_all(path); }

  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;

  [[nodiscard]] std::string tree() const { return path + "/root"; }

  [[nodiscard]] std::string squashfs() const {
    const std::string image = path + "/root.squashfs";
    REQUIRE(in_child([&] {
              const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
              ::dup2(null, 1);
              ::dup2(null, 2);
              ::execlp("mksquashfs", "mksquashfs", tree().c_str(), image.c_str(), "-noappend",
                       "-comp", "zstd", nullptr);
              return 127;
            }) == 0);
    return image;
  }

  std::string path = "/tmp/postern-inspect-XXXXXX";
};

void check_all(const Metadata& m) {
  CHECK(m.labels == std::map<std::string, std::string>{{"count", "3"}, {"maintainer", "me"}});
  CHECK(m.runscript == "#!/bin/sh\nexec \"$@\"");
  CHECK(m.startscript == "start");
  CHECK(m.helpfile == "some help");
  CHECK(m.deffile == "bootstrap: scratch");
  CHECK(m.test == "tested through a link");
  CHECK(m.environment == std::map<std::string, std::string>{
                             {"/.singularity.d/env/10-docker2singularity.sh", "export A=1"},
                             {"/.singularity.d/env/90-environment.sh", "export B=2"}});
  REQUIRE(m.apps.size() == 3);
  CHECK(m.apps.at("foo").runscript == "run foo");
  CHECK(m.apps.at("foo").environment.size() == 1);
  CHECK(m.apps.at("bar").runscript == "run foo");
  CHECK(m.apps.at("escape").runscript.empty());  // never the file outside
  CHECK(m.apps.at("escape").test.empty());       // a link to itself
  CHECK(m.apps.at("escape").helpfile.empty());
}

}  // namespace

TEST_SUITE("frontend/inspect") {
  TEST_CASE("a directory and a squashfs of it show the same, and links do not leave the image") {
    const Root root;
    const auto directory = inspect(root.tree());
    REQUIRE(directory);
    check_all(*directory);
    const auto image = inspect(root.squashfs());
    REQUIRE(image);
    check_all(*image);
  }

  TEST_CASE("a SIF without metadata is read from its file system, its own definition file first") {
    const Root root;
    const std::string path = root.path + "/a.sif";
    auto w = sif::Writer::create(path, {});
    REQUIRE(w->add({.type = sif::DataType::kDefinition}, "bootstrap: object\n"));
    const UniqueFd squashfs(::open(root.squashfs().c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(w->add({.type = sif::DataType::kPartition,
                    .extra = sif::PartitionInfo{.fs = sif::FileSystem::kSquashfs,
                                                .type = sif::PartitionType::kPrimarySystem,
                                                .architecture = sif::Architecture::kAmd64}},
                   squashfs.get()));
    REQUIRE(w->finish());
    const auto metadata = inspect(path);
    REQUIRE(metadata);
    CHECK(metadata->deffile == "bootstrap: object");
    CHECK(metadata->test == "tested through a link");
  }

  TEST_CASE("the image of another implementation shows what it carries") {
    const auto m = inspect(POSTERN_TEST_DATA "/images/busybox_amd64.sif");
    REQUIRE(m);
    CHECK(m->labels.at("org.label-schema.build-arch") == "amd64");
    CHECK(m->deffile == "BootStrap: docker\nFrom: busybox:1.33.1");
    CHECK(m->environment.size() == 2);
    CHECK(m->startscript == "#!/bin/sh");
  }

  TEST_CASE("the selection chooses; an unknown app is an error") {
    Metadata m{.labels = {{"b", "2"}, {"a", "1"}}, .runscript = "run", .deffile = "def"};
    m.apps["foo"].runscript = "run foo";
    m.apps["foo"].labels["x"] = "y";
    CHECK(to_text(*select(m, {.labels = true}), {.labels = true}) == "a: 1\nb: 2\n");
    CHECK(to_text(*select(m, {.runscript = true}), {.runscript = true}) == "run\n");
    const Selection foo{.labels = true, .runscript = true, .app = "foo"};
    CHECK(to_text(*select(m, foo), foo) == "run foo\nx: y\n");
    CHECK(to_text(*select(m, {.list_apps = true}), {.list_apps = true}) == "foo\n");
    CHECK_FALSE(select(m, {.labels = true, .app = "nope"}));
    CHECK(select(m, {.all = true, .app = "nope"})->apps.size() == 1);
  }

  TEST_CASE("JSON has Apptainer's shape, leaves out what is empty, and reads back") {
    Metadata m{.environment = {{"/e.sh", "E=1"}}, .labels = {{"a", "<&>"}}, .deffile = "d"};
    m.apps["foo"].test = "t";
    CHECK(to_json(m) ==
          "{\n\t\"data\": {\n\t\t\"attributes\": {\n\t\t\t\"apps\": {\n\t\t\t\t\"foo\": {\n"
          "\t\t\t\t\t\"test\": \"t\"\n\t\t\t\t}\n\t\t\t},\n\t\t\t\"environment\": {\n"
          "\t\t\t\t\"/e.sh\": \"E=1\"\n\t\t\t},\n\t\t\t\"labels\": {\n\t\t\t\t\"a\": \"<&>\"\n"
          "\t\t\t},\n\t\t\t\"deffile\": \"d\"\n\t\t}\n\t},\n\t\"type\": \"container\"\n}\n");
    CHECK(to_json(Metadata{}) ==
          "{\n\t\"data\": {\n\t\t\"attributes\": {}\n\t},\n\t\"type\": \"container\"\n}\n");
    CHECK(parse_metadata(to_json(m))->apps.at("foo").test == "t");
    CHECK(to_json({.runscript = "\xff\xfe"}).find("\xef\xbf\xbd") != std::string::npos);
  }

  TEST_CASE("metadata of no form is an error, a malformed member is left out, never an exception") {
    for (const char* json : {"", "{", "[]", "{}", R"({"data":1})"}) {
      CAPTURE(json);
      CHECK_FALSE(parse_metadata(json));
    }
    for (const char* member :
         {R"("labels":[])", R"("helpfile":{})", R"("apps":{"a":1})", R"("apps":[])",
          R"("apps":{"a":{"test":1}})", R"("environment":"x")", R"("startscript":1)"}) {
      CAPTURE(member);
      const auto metadata = parse_metadata(R"({"data":{"attributes":{"runscript":"good",)" +
                                           std::string(member) + "}}}");
      REQUIRE(metadata);
      CHECK(metadata->runscript == "good");
      CHECK(metadata->left_out.size() == 1);
    }
    CHECK(parse_metadata(R"({"data":{"attributes":{"labels":null,"new":1}}})"));
    CHECK_FALSE(parse_labels("[1]"));
    CHECK_FALSE(inspect("/nonexistent"));
    CHECK_FALSE(inspect("/dev/null"));
  }

  TEST_CASE("an image cannot steer the terminal") {
    using text::Lines;
    using text::printable;
    CHECK(printable("a\x1b[2J\tb\n\x7f", Lines::kMany) == "a\\x1b[2J\tb\n\\x7f");
    CHECK(printable("a\tb\n") == "a\\x09b\\x0a");
    CHECK(printable("caf\u00e9 \u4f60 \U0001f600") == "caf\u00e9 \u4f60 \U0001f600");
    CHECK(printable("\u009b31m") == "\\xc2\\x9b31m");  // C1
    CHECK(printable("\x9b"
                    "31m") == "\\x9b31m");  // and as one byte
    CHECK(printable("\u202egpj.exe") == "\\xe2\\x80\\xaegpj.exe");
    CHECK(printable("\u2066\u200f\u2028") == "\\xe2\\x81\\xa6\\xe2\\x80\\x8f\\xe2\\x80\\xa8");
    CHECK(printable("\xc0\xaf\xed\xa0\x80\xf5\xe2\x82") ==
          "\\xc0\\xaf\\xed\\xa0\\x80\\xf5\\xe2\\x82");  // not UTF-8
    CHECK(text::printable_json("{\"a\": \"\u202e\u009b\U000e0001\"}\n") ==
          "{\"a\": \"\\u202e\\u009b\\udb40\\udc01\"}\n");
  }
}
}  // namespace postern::inspect
