#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/imagebuild/definition.h"
#include "frontend/imagebuild/oci_json.h"
#include "frontend/imagebuild/stream.h"

using postern::imagebuild::BuildArguments;
using postern::imagebuild::choose_image;
using postern::imagebuild::OciDescriptor;
using postern::imagebuild::parse_definition;
using postern::imagebuild::parse_docker_manifest;
using postern::imagebuild::parse_image_config;
using postern::imagebuild::parse_oci_index;
using postern::imagebuild::parse_oci_manifest;
using postern::imagebuild::split_words;

namespace {

const std::string kDigest = "sha256:" + std::string(64, 'a');

std::string descriptor(const std::string& more = "") {
  return R"({"mediaType":"application/vnd.oci.image.manifest.v1+json","size":7,"digest":")" +
         kDigest + "\"" + more + "}";
}

OciDescriptor candidate(std::string name, std::string architecture, std::string variant = "") {
  OciDescriptor out;
  out.media_type = "application/vnd.oci.image.manifest.v1+json";
  out.digest = kDigest;
  out.name = std::move(name);
  out.os = architecture.empty() ? "" : "linux";
  out.architecture = std::move(architecture);
  out.variant = std::move(variant);
  return out;
}

postern::Outcome<postern::imagebuild::Definition> parsed(std::string_view text,
                                                         const BuildArguments& arguments = {}) {
  std::vector<std::string> unused;
  return parse_definition(text, arguments, unused);
}

}  // namespace

TEST_SUITE("frontend/build") {
  TEST_CASE("a docker manifest gives configuration, layers and tags") {
    const auto images = parse_docker_manifest(
        R"([{"Config":"c.json","RepoTags":["a:1"],"Layers":["x/layer.tar","y"],"New":{}},
                                                  {"Config":"d","RepoTags":null,"Layers":[]}])");
    REQUIRE(images);
    REQUIRE(images->size() == 2);
    CHECK(images->at(0).config == "c.json");
    CHECK(images->at(0).layers == std::vector<std::string>{"x/layer.tar", "y"});
    CHECK(images->at(0).tags == std::vector<std::string>{"a:1"});
    CHECK(images->at(1).tags.empty());
    for (const char* bad : {"", "{}", "[]", "[1]", "[{}]", R"([{"Config":1}])",
                            R"([{"Config":"c","Layers":"x"}])", R"([{"Config":"c","Layers":[1]}])",
                            R"([{"Config":"c","RepoTags":{}}])", "[{\"Config\":\"\xff\"}]"}) {
      CAPTURE(bad);
      CHECK_FALSE(parse_docker_manifest(bad));
    }
  }

  TEST_CASE("descriptors without a proper digest or size are refused") {
    CHECK(parse_oci_index("{\"manifests\":[" + descriptor() + "]}"));
    const std::string upper = "sha256:" + std::string(64, 'A');
    for (const std::string& bad :
         {std::string(R"({"digest":"sha256:../../etc/passwd","size":1})"),
          "{\"digest\":\"" + upper + "\",\"size\":1}", "{\"digest\":\"" + kDigest + "\"}",
          "{\"digest\":\"" + kDigest + "\",\"size\":-1}",
          "{\"digest\":\"" + kDigest + "\",\"size\":1.5}",
          std::string(R"({"digest":"sha512:00","size":1})"), std::string("7"),
          "{\"digest\":\"" + kDigest +
              "\",\"size\":1,\"annotations\":{\"org.opencontainers.image.ref.name\":3}}"}) {
      CAPTURE(bad);
      CHECK_FALSE(parse_oci_index("{\"manifests\":[" + bad + "]}"));
    }
    CHECK_FALSE(parse_oci_index("{}"));
    CHECK_FALSE(parse_oci_index(R"({"manifests":{}})"));
  }

  TEST_CASE("an OCI manifest gives its layers, encrypted ones are refused with a cure") {
    const auto manifest = parse_oci_manifest("{\"config\":" + descriptor() + ",\"layers\":[" +
                                             descriptor() + "," + descriptor() + "]}");
    REQUIRE(manifest);
    CHECK(manifest->layers.size() == 2);
    CHECK(manifest->config.size == 7);
    const auto encrypted = parse_oci_manifest(
        "{\"config\":" + descriptor() +
        ",\"layers\":[{\"mediaType\":\"x.tar+gzip+encrypted\",\"size\":1,\"digest\":\"" + kDigest +
        "\"}]}");
    REQUIRE_FALSE(encrypted);
    CHECK_FALSE(encrypted.error().cure.empty());
    CHECK_FALSE(parse_oci_manifest("{\"config\":" + descriptor() + "}"));
    CHECK_FALSE(parse_oci_manifest("{\"layers\":[]}"));
    std::string many = "{\"config\":" + descriptor() + ",\"layers\":[" + descriptor();
    for (int i = 0; i < 512; ++i) {
      many += "," + descriptor();
    }
    CHECK_FALSE(parse_oci_manifest(many + "]}"));
  }

  TEST_CASE("documents that nest without end are refused before the parser sees them") {
    CHECK_FALSE(parse_docker_manifest(std::string(1 << 20, '[')));
    CHECK_FALSE(parse_image_config("{\"a\":" + std::string(100000, '{')));
    CHECK(parse_image_config(
        R"({"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[[["})"));
  }

  TEST_CASE("an image is chosen by name, then by platform") {
    const std::vector<OciDescriptor> two = {candidate("v1", ""), candidate("repo:v2", "")};
    CHECK(choose_image(two, "v1", "amd64")->name == "v1");
    CHECK(choose_image(two, "v2", "amd64")->name == "repo:v2");
    CHECK_FALSE(choose_image(two, "v3", "amd64"));
    CHECK_FALSE(choose_image(two, "", "amd64"));
    const std::vector<OciDescriptor> platforms = {candidate("", "amd64"), candidate("", "arm64"),
                                                  candidate("", "arm", "v7"),
                                                  candidate("", "arm", "v6")};
    CHECK(choose_image(platforms, "", "arm64")->architecture == "arm64");
    CHECK(choose_image(platforms, "", "arm")->variant == "v7");
    CHECK_FALSE(choose_image(platforms, "", "s390x"));
    CHECK(choose_image({candidate("", "riscv64")}, "", "amd64"));  // the only one
    CHECK_FALSE(choose_image({}, "", "amd64"));
  }

  TEST_CASE("an image configuration gives environment, program, labels and layer ids") {
    const auto config = parse_image_config(
        R"({"architecture":"arm64","created":"2020-01-02T03:04:05Z","config":{"Env":["A=b"],"Entrypoint":["/x"],
        "Cmd":null,"Labels":{"k":"v"}},"rootfs":{"diff_ids":[")" +
        kDigest + "\"]}}");
    REQUIRE(config);
    CHECK(config->config.architecture == "arm64");
    CHECK(config->config.environment == std::vector<std::string>{"A=b"});
    CHECK(config->config.entrypoint == std::vector<std::string>{"/x"});
    CHECK(config->config.command.empty());
    CHECK(config->config.labels.at("k") == "v");
    CHECK(config->diff_ids == std::vector<std::string>{kDigest});
    for (const char* bad :
         {"[]", R"({"config":{"Env":"A=b"}})", R"({"config":{"Cmd":[1]}})",
          R"({"config":{"Labels":[]}})", R"({"rootfs":{"diff_ids":["sha256:1"]}})",
          R"({"config":{"Env":["A=\u0000"]}})"}) {
      CAPTURE(bad);
      CHECK_FALSE(parse_image_config(bad));
    }
  }

  TEST_CASE("a definition file is taken apart into header and sections") {
    const auto done = parsed(
        "# comment\nBootStrap: localimage\nFrom: base.sif\n\n%post -c /bin/bash\necho {{not a "
        "template\n%files\n  a b\n  'c d' /e\n"
        "%labels\n  Author  me myself\n%environment\nexport A=1\n%runscript\nexec prog "
        "\"$@\"\n%apprun tool\nrun tool\n%applabels tool\nx y\n");
    REQUIRE(done);
    REQUIRE(done->stages.size() == 1);
    const auto& stage = done->stages[0];
    CHECK(stage.header.at("bootstrap") == "localimage");
    CHECK(stage.header.at("from") == "base.sif");
    REQUIRE(stage.post);
    CHECK(stage.post->words == std::vector<std::string>{"-c", "/bin/bash"});
    CHECK(stage.post->text == "echo {{not a template\n");
    REQUIRE(stage.files.size() == 2);
    CHECK(stage.files[1].from == "c d");
    CHECK(stage.files[1].to == "/e");
    CHECK(stage.labels.at("Author") == "me myself");
    CHECK(stage.environment == "export A=1\n");
    CHECK(stage.runscript == "exec prog \"$@\"\n");
    CHECK(stage.apps.at("tool").run == "run tool\n");
    CHECK(stage.apps.at("tool").labels.at("x") == "y");
  }

  TEST_CASE("templates take the given value before the default, and need one") {
    const std::string text =
        "Bootstrap: localimage\nFrom: {{ IMG }}-{{TAG}}\n%arguments\n  TAG=v1\n  IMG=base\n";
    CHECK(parsed(text)->stages[0].header.at("from") == "base-v1");
    CHECK(parsed(text, {{"TAG", "v2"}})->stages[0].header.at("from") == "base-v2");
    const auto missing = parsed("Bootstrap: localimage\nFrom: {{ NONE }}\n");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().what.find("line 2") != std::string::npos);
    std::vector<std::string> unused;
    CHECK(parse_definition("Bootstrap: scratch\n", {{"X", "1"}}, unused));
    CHECK(unused == std::vector<std::string>{"X"});
  }

  TEST_CASE("templates: per stage, one level deep, over lines, not in comments") {
    const auto done = parsed(
        "Bootstrap: a\nFrom: {{ X }}\n%arguments\nX=one\nQ=\"q\"\n%post\n{{\n Q }} # {{ NONE }}\n"
        "#!{{X}}\nbootstrap: b\nFrom: {{X}}/{{Z}}\n%arguments\nX={{ Y }}\nY={{X}}\n",
        {{"Z", "{{NONE}}"}});
    REQUIRE(done);
    CHECK(done->stages[0].header.at("from") == "one");
    CHECK(done->stages[0].post->text == "\"q\" # {{ NONE }}\n#!one\n");
    CHECK(done->stages[1].header.at("from") == "{{X}}/{{NONE}}");
  }

  TEST_CASE("headers: comments behind values, lines that go on, any case") {
    const auto done = parsed(
        "BOOTSTRAP: dnf # here\nMirrorURL: http://x/#frag\nInclude: one \\\n   two\\n\\\nthree\n"
        "OtherURL7: y\n# Nothing: z\n%post  # a comment\ntrue\n");
    REQUIRE(done);
    const auto& header = done->stages[0].header;
    CHECK(header.at("bootstrap") == "dnf");
    CHECK(header.at("mirrorurl") == "http://x/#frag");
    CHECK(header.at("include") == "one two\nthree");
    CHECK(header.at("otherurl7") == "y");
    CHECK(done->stages[0].post->words.empty());
  }

  TEST_CASE("Windows line ends, repeated sections, interpreters of scripts") {
    const auto done = parsed(
        "Bootstrap: scratch\r\n%post -u\r\none\r\n%post\r\ntwo\r\n%runscript "
        "-e\r\n#!/bin/bash\r\nx\r\n"
        "%test -c /bin/dash\r\ny\r\n%pre\r\np\r\n%setup\r\ns\r\n");
    REQUIRE(done);
    const auto& stage = done->stages[0];
    CHECK(stage.post->text == "one\ntwo\n");
    CHECK(stage.post->words.empty());
    CHECK(stage.runscript == "#!/bin/bash -e\nx\n");
    CHECK(stage.test == "#!/bin/dash\ny\n");
    CHECK(stage.pre->text == "p\n");
    CHECK(stage.setup->text == "s\n");
  }

  TEST_CASE("what a definition file cannot say is an error with its line") {
    for (const char* bad :
         {"", "\n# nothing\n", "hello\n", "%post\nx\n", "Bootstrap: x\nnonsense\n",
          "Bootstrap: x\n%nosuch\n", "Bootstrap: x\nForm: y\n", "FROM debian\nRUN true\n",
          "Bootstrap: x\n%files\na b c\n", "Bootstrap: x\n%files\n\"a\n",
          "Bootstrap: x\n%files into y\n", "Bootstrap: x\n%apprun\n",
          "Bootstrap: x\n%apprun ../x\n", "Bootstrap: x\n%appnosuch y\n"}) {
      CAPTURE(bad);
      CHECK_FALSE(parsed(bad));
    }
    CHECK_FALSE(parsed(std::string_view("Bootstrap: x\n\0", 14)));
    CHECK(parsed("Bootstrap: a\nStage: one\n%post\nx\nBootstrap: b\n%files from one\n/x\n")
              ->stages.size() == 2);
  }

  TEST_CASE("words are split at blanks unless quoted") {
    CHECK(*split_words("a  b\tc") == std::vector<std::string>{"a", "b", "c"});
    CHECK(*split_words("'a b' \"c\\\"d\" e\\ f ''") ==
          std::vector<std::string>{"a b", "c\"d", "e f", ""});
    CHECK(split_words("")->empty());
    CHECK_FALSE(split_words("'open"));
  }

  TEST_CASE("digests are computed and recognised") {
    CHECK(postern::imagebuild::sha256_of("abc") ==
          "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(postern::imagebuild::is_sha256_digest(kDigest));
    CHECK_FALSE(postern::imagebuild::is_sha256_digest(kDigest + "a"));
    CHECK_FALSE(postern::imagebuild::is_sha256_digest("sha256:" + std::string(64, 'g')));
  }
}
