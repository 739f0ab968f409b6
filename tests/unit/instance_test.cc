// Instances: their names, what a monitor says, and what a process that joins is left of its wishes.
#include <algorithm>
#include <string>

#include <doctest/doctest.h>

#include "frontend/init/agent.h"
#include "frontend/instance/contact.h"
#include "frontend/instance/name.h"

namespace postern {
namespace {

TEST_SUITE("instance") {
  TEST_CASE("a name is a name of a file, and leads nowhere else") {
    for (const char* name : {"a", "web-1", "A_b.c", "0", "-x"}) {
      CAPTURE(name);
      CHECK(instance::check_name(name));
    }
    CHECK(instance::check_name(std::string(250, 'x')));
    for (const std::string& name :
         {std::string(), std::string("."), std::string(".."), std::string(".new"),
          std::string("a/b"), std::string("a b"), std::string("a\n"), std::string("a\0b", 3),
          std::string("\xc3\xbc"), std::string(251, 'x')}) {
      CAPTURE(name);
      const auto checked = instance::check_name(name);
      REQUIRE_FALSE(checked);
      CHECK(checked.error().exit_code == 255);
      CHECK_FALSE(checked.error().cure.empty());
    }
  }

  TEST_CASE("an image that is an instance is told by its scheme alone") {
    CHECK(instance::name_in("instance://web") == "web");
    CHECK(instance::name_in("instance://") == "");
    CHECK_FALSE(instance::name_in("instance:web"));
    CHECK_FALSE(instance::name_in("./instance://web"));
  }

  TEST_CASE("a description is read back, and anything else is none") {
    const instance::Description written{.pid = 42, .image = "/a b", .out = "/o", .err = ""};
    instance::Description read;
    REQUIRE(instance::decode(instance::encode(written), read));
    CHECK(read.pid == 42);
    CHECK(read.image == "/a b");
    CHECK(read.out == "/o");
    CHECK(read.err.empty());
    for (const std::string& bytes :
         {std::string(), std::string("42"), std::string("x\0a\0b\0c", 7),
          std::string("-1\0a\0b\0c", 8), std::string("0\0a\0b\0c", 7), std::string("1\0a\0b", 5),
          std::string("1\0a\0b\0c\0d", 9), std::string("1 \0a\0b\0c", 8),
          std::string("99999999999\0a\0b\0c", 17)}) {
      CAPTURE(bytes);
      CHECK_FALSE(instance::decode(bytes, read));
    }
  }

  TEST_CASE("who joins has the filter, the home and the variables of the instance") {
    init::LaunchRecord own;
    own.filters = {{1, 2, 3, 4, 5, 6, 7, 8}};
    own.home = "/home/x";
    own.fixed = {"HOME=/home/x", "POSTERN_COMMAND=start"};
    init::LaunchRecord wish;
    wish.filters = {};
    wish.home = "/elsewhere";
    wish.agent = 3;
    wish.reaper = true;
    wish.links = {"/dev/x=y"};
    wish.optional = {"/x"};
    wish.argv = {"true"};
    wish.fixed = {"POSTERN_COMMAND=exec"};
    const init::LaunchRecord joined = init::joined_record(wish, own);
    CHECK(joined.filters == own.filters);
    CHECK(joined.home == "/home/x");
    CHECK(joined.agent == -1);
    CHECK_FALSE(joined.reaper);
    CHECK(joined.links.empty());
    CHECK(joined.optional.empty());
    CHECK(joined.argv == wish.argv);
    CHECK(joined.fixed.front() == "HOME=/home/x");
    CHECK(joined.fixed.back() == "POSTERN_COMMAND=exec");
  }
}

}  // namespace
}  // namespace postern
