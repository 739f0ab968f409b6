// Names of images and what servers say: pure functions of frontend/net.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/net/credentials.h"
#include "frontend/net/http.h"
#include "frontend/net/library.h"
#include "frontend/net/reference.h"
#include "frontend/net/registry.h"
#include "frontend/net/remotes.h"
#include "policy/text/hex.h"
#include "policy/text/percent.h"

namespace net = postern::net;

namespace {

const std::string kHex(64, 'a');

std::string name_or_problem(std::string_view text) {
  const auto reference = net::parse_reference(text);
  return reference ? reference->name() : "!";
}

}  // namespace

TEST_SUITE("text") {
  TEST_CASE("digits and percent signs are written in one way") {
    namespace text = postern::text;
    const std::vector<std::uint8_t> bytes = {0x00, 0x9f, 0xff};
    CHECK(text::to_hex(bytes) == "009fff");
    CHECK(text::to_hex(bytes, text::Case::kUpper) == "009FFF");
    CHECK(text::is_lower_hex("09af", 4));
    for (const char* wrong : {"09a", "09aff", "09aF", "09ag", ""}) {
      CAPTURE(wrong);
      CHECK_FALSE(text::is_lower_hex(wrong, 4));
    }
    CHECK(text::percent_encode("aZ0-._~") == "aZ0-._~");
    CHECK(text::percent_encode("a b/\xc3\xa4%") == "a%20b%2F%C3%A4%25");
  }
}

TEST_SUITE("net") {
  TEST_CASE("a reference names host, repository and tag or digest") {
    struct Row {
      std::string text;
      std::string name;  // "!" = refused
    };

    const Row rows[] = {
        {"alpine", "docker.io/library/alpine:latest"},
        {"alpine:3.18", "docker.io/library/alpine:3.18"},
        {"a/b", "docker.io/a/b:latest"},
        {"index.docker.io/a/b", "docker.io/a/b:latest"},
        {"quay.io/a/b/c:v1", "quay.io/a/b/c:v1"},
        {"localhost/x", "localhost/x:latest"},
        {"localhost:5000/x:y", "localhost:5000/x:y"},
        {"[::1]:5000/x", "[::1]:5000/x:latest"},
        {"a@sha256:" + kHex, "docker.io/library/a@sha256:" + kHex},
        {"a:tag@sha256:" + kHex, "docker.io/library/a@sha256:" + kHex},
        {"q/a.b_c__d-e---f/x", "docker.io/q/a.b_c__d-e---f/x:latest"},
        {"a.b_c/x", "!"},
        {"", "!"},
        {"a/", "!"},
        {"/a", "!"},
        {"a//b", "!"},
        {"quay.io/", "!"},
        {"Alpine", "!"},
        {"a:", "!"},
        {"a:t g", "!"},
        {"a:" + std::string(129, 'x'), "!"},
        {"a@sha256:" + kHex + "a", "!"},
        {"a@sha512:" + kHex, "!"},
        {"a@sha256:" + std::string(64, 'A'), "!"},
        {"host.x:port/a", "!"},
        {"-host.x/a", "!"},
        {"a..b/c/d", "!"},
        {"x/a..b", "!"},
        {"x/.a", "!"},
        {"x/a-", "!"},
        {"x/a___b", "!"},
        {"x/../b", "!"},
        {"x/a\nb", "!"},
        {"x/" + std::string(300, 'a'), "!"},
    };
    for (const Row& row : rows) {
      CAPTURE(row.text);
      CHECK(name_or_problem(row.text) == row.name);
    }
  }

  TEST_CASE("a host in upper case is a host, a repository is not") {
    CHECK(name_or_problem("Quay.IO/a/b") == "Quay.IO/a/b:latest");
    CHECK(name_or_problem("quay.io/A/b") == "!");
  }

  TEST_CASE("transports are split from what they name") {
    CHECK(net::transport_of("docker://alpine") == "docker");
    CHECK(net::transport_of("oci:dir:tag") == "oci");
    CHECK(net::transport_of("foo://bar") == "foo");
    CHECK(net::transport_of("foo:bar").empty());
    CHECK(net::transport_of("./a:b").empty());
    CHECK(net::transport_of("/a/docker://b").empty());
    CHECK(net::after_transport("docker://alpine") == "alpine");
    CHECK(net::after_transport("oci:dir:tag") == "dir:tag");
  }

  TEST_CASE("a pulled file is called after the image") {
    CHECK(*net::file_name_of("docker://quay.io/a/b:1") == "b_1.sif");
    CHECK(*net::file_name_of("docker://alpine") == "alpine_latest.sif");
    CHECK(*net::file_name_of("library://e/c/n:1,2") == "n_1.sif");
    CHECK(*net::file_name_of("https://host/path/x.sif?y=1") == "x.sif?y=1");
    CHECK(*net::file_name_of("docker-archive:foo.tar") == "foo.tar_latest.sif");
    CHECK_FALSE(net::file_name_of("docker://"));
    CHECK_FALSE(net::file_name_of("https://host/.."));
  }

  TEST_CASE("a library reference has a host only before three parts") {
    const auto plain = net::parse_library_reference("ent/coll/cont:1,2");
    REQUIRE(plain);
    CHECK(plain->host.empty());
    CHECK(plain->path == "ent/coll/cont");
    CHECK(plain->tags.size() == 2);
    const auto hosted = net::parse_library_reference("example.org/ent/coll/cont");
    REQUIRE(hosted);
    CHECK(hosted->host == "example.org");
    CHECK(hosted->tag == "latest");
    for (const char* bad : {"", "a/../b", "a/b:", "a?arch=x", "a/b/c:t#x", "A/b"}) {
      CAPTURE(bad);
      CHECK_FALSE(net::parse_library_reference(bad));
    }
  }

  TEST_CASE("a challenge is read with its quotes") {
    const auto bearer = net::parse_challenge(
        R"(Bearer realm="https://a/t?x=1,2", service = "a \"b\"",scope=repository:x:pull)");
    REQUIRE(bearer);
    CHECK(bearer->bearer);
    CHECK(bearer->realm == "https://a/t?x=1,2");
    CHECK(bearer->service == "a \"b\"");
    CHECK(bearer->scope == "repository:x:pull");
    CHECK(net::parse_challenge("Basic realm=\"x\"").has_value());
    CHECK_FALSE(net::parse_challenge("Bearer service=\"x\"").has_value());
    CHECK_FALSE(net::parse_challenge("Negotiate abc").has_value());
  }

  TEST_CASE("a token is one word of visible characters") {
    CHECK(*net::parse_token(R"({"token":"abc"})") == "abc");
    CHECK(*net::parse_token(R"({"access_token":"abc"})") == "abc");
    for (const char* bad :
         {"", "{}", R"({"token":""})", R"({"token":"a\r\nX: y"})", R"({"token":5})"}) {
      CAPTURE(bad);
      CHECK_FALSE(net::parse_token(bad));
    }
  }

  TEST_CASE("a document is a manifest or an index, and what it is called") {
    const std::string manifest = "application/vnd.oci.image.manifest.v1+json";
    const std::string index = "application/vnd.oci.image.index.v1+json";
    CHECK(*net::manifest_media_type(manifest, R"({"config":{},"layers":[]})") == manifest);
    CHECK(*net::manifest_media_type(manifest + "; charset=utf-8", R"({"layers":[]})") == manifest);
    CHECK(*net::manifest_media_type("text/plain", R"({"manifests":[]})") == index);
    for (const auto& [type, body] : {
             std::pair{manifest, R"({"manifests":[]})"},
             std::pair{index, R"({"layers":[]})"},
             std::pair{index, R"({"manifests":[],"layers":[]})"},
             std::pair{manifest,
                       R"({"layers":[],"mediaType":"application/vnd.oci.image.index.v1+json"})"},
             std::pair{manifest, R"({"schemaVersion":1,"layers":[]})"},
             std::pair{manifest, R"({"layers":[],"layers":[]})"},
             std::pair{manifest, "<html>"},
             std::pair{manifest, "[]"},
         }) {
      CAPTURE(type);
      CAPTURE(body);
      CHECK_FALSE(net::manifest_media_type(type, body));
    }
  }

  TEST_CASE("an origin has scheme, host and port") {
    CHECK(*net::origin_of("https://Host/x") == "https://host:443");
    CHECK(*net::origin_of("http://u:p@h:81/x") == "http://h:81");
    CHECK_FALSE(net::origin_of("file:///etc/passwd"));
    CHECK(*net::resolve_url("https://a/b/c", "../d?x") == "https://a/d?x");
    CHECK_FALSE(net::resolve_url("https://a/b", "file:///etc/passwd"));
  }

  TEST_CASE("addresses of this machine and of private networks are known as such") {
    for (const char* host : {"localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"}) {
      CAPTURE(host);
      CHECK(net::is_loopback(host));
    }
    for (const char* host : {"10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "fe80::1",
                             "fd00::1", "::ffff:10.0.0.1", "0.0.0.0"}) {
      CAPTURE(host);
      CHECK(net::is_private_address(host));
      CHECK_FALSE(net::is_loopback(host));
    }
    for (const char* host :
         {"8.8.8.8", "172.32.0.1", "2001:db8::1", "notlocalhost", "10.example.org"}) {
      CAPTURE(host);
      CHECK_FALSE(net::is_private_address(host));
    }
  }

  TEST_CASE("a library's hash is a SHA-256 and nothing else") {
    CHECK(
        net::parse_library_image(R"({"data":{"hash":"sha256.)" + kHex + R"(","size":5}})")->size ==
        5);
    CHECK_FALSE(net::parse_library_image(R"({"data":{"hash":"../../x"}})"));
    CHECK_FALSE(net::parse_library_image(R"({"data":{"hash":"sha256.)" + kHex + R"(/.."}})"));
    CHECK_FALSE(net::parse_library_image(R"({"error":{}})"));
  }

  TEST_CASE("remote.yaml is read as it is written, and nothing else is taken for it") {
    net::Remotes remotes;
    remotes.active = "lab";
    remotes.remotes["lab"] = {.uri = "example.org:8443/x",
                              .token = "t",
                              .key_servers = {{.uri = "https://k", .external = true}}};
    remotes.remotes["on: off"] = {.uri = "a", .system = true, .exclusive = true, .insecure = true};
    remotes.logins.push_back({.uri = "docker://h", .insecure = true});
    const auto again = net::parse_remotes(net::remotes_text(remotes), "x");
    REQUIRE(again);
    CHECK(again->remotes == remotes.remotes);
    CHECK(again->logins.size() == 1);
    CHECK(net::parse_remotes("", "x"));
    for (const char* bad :
         {"[]", "Strange: 1", "a: &x [1]\nb: *x", "Remotes: {x: {Token: \"a\\nb\"}}",
          "Remotes: {x: {Other: 1}}", "{{{{{{{{{{{{{{{{{{{{{{"}) {
      CAPTURE(bad);
      CHECK_FALSE(net::parse_remotes(bad, "x"));
    }
  }

  TEST_CASE("credentials: the nearest key counts") {
    const auto file = net::CredentialFile::parse(
        R"({"auths":{"h":{"auth":"YTox"},"h/team":{"auth":"Yjoy"},"https://index.docker.io/v1/":{"username":"c","password":"3"},
            "https://old/v1/":{"auth":"ZDo0"},"bad":{"auth":"!!"}},"other":{"kept":true}})",
        "x");
    REQUIRE(file);
    const auto user = [&](const char* key, const char* repository) {
      const auto found = file->find(key, repository);
      return !found ? "!" : !*found ? "" : (*found)->user + (*found)->password;
    };
    CHECK(user("h", "x/y") == "a1");
    CHECK(user("h", "team/y") == "b2");
    CHECK(user("h", "teamwork/y") == "a1");
    CHECK(user("https://index.docker.io/v1/", "library/x") == "c3");
    CHECK(user("old", "x") == "d4");
    CHECK(user("nobody", "x").empty());
    CHECK(user("bad", "x") == "!");
    CHECK_FALSE(net::CredentialFile::parse("[]", "x"));
  }
}
