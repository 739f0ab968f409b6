#include "frontend/plan/identity.h"

#include <string>

#include <doctest/doctest.h>

using postern::plan::Identity;
using postern::plan::merge_group;
using postern::plan::merge_passwd;

namespace {

const Identity kAlice{.uid = 1001,
                      .gid = 100,
                      .name = "alice",
                      .gecos = "Alice A",
                      .home = "/home/alice",
                      .shell = "/bin/zsh",
                      .groups = {{100, "users"}, {4000, "project"}, {5000, ""}}};

}  // namespace

TEST_SUITE("frontend/plan identity") {
  TEST_CASE("a caller that the image does not know is appended, all else stays") {
    CHECK(merge_passwd("root:x:0:0:root:/root:/bin/bash\ndaemon:*:1:1::/:/no", kAlice, "/h") ==
          "root:x:0:0:root:/root:/bin/bash\ndaemon:*:1:1::/:/no\n"
          "alice:x:1001:100:Alice A:/h:/bin/zsh\n");
    CHECK(merge_passwd("", kAlice, "/h") == "alice:x:1001:100:Alice A:/h:/bin/zsh\n");
  }

  TEST_CASE("a line of the caller's uid is replaced and keeps the image's gid and shell") {
    CHECK(merge_passwd("bob:x:1001:77:Bob:/home/bob:/bin/ash\n", kAlice, "/h") ==
          "alice:x:1001:77:Alice A:/h:/bin/ash\n");
  }

  TEST_CASE("root keeps the image's name") {
    const Identity root{.uid = 0, .name = "root", .gecos = "host root", .shell = "/bin/bash"};
    CHECK(merge_passwd("toor:x:0:0:The Root:/r:/bin/sh\n", root, "/root") ==
          "toor:x:0:0:The Root:/root:/bin/sh\n");
  }

  TEST_CASE("a caller without a name gets one; colons and line ends cannot make fields") {
    const Identity nameless{.uid = 7, .gid = 8};
    CHECK(merge_passwd("", nameless, "/a:b\nc") == "user7:x:7:8::/a b c:/bin/sh\n");
  }

  TEST_CASE("damaged lines of the image stay as they are") {
    CHECK(merge_passwd("x\n::\nq:x:1001\n", kAlice, "/h").starts_with("x\n::\nalice:x:1001:"));
  }

  TEST_CASE("groups that the image has no gid for are appended, each once") {
    CHECK(merge_group("root:x:0:\nstaff:x:100:\n", kAlice) ==
          "root:x:0:\nstaff:x:100:\nproject:x:4000:alice\ngroup5000:x:5000:alice\n");
  }
}
