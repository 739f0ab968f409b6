#include "frontend/plan/bind.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

using postern::plan::absolute_path;
using postern::plan::Bind;
using postern::plan::is_within;
using postern::plan::parse_binds;
using postern::plan::parse_mounts;

namespace {

std::string shown(const std::vector<Bind>& binds) {
  std::string text;
  for (const Bind& bind : binds) {
    text += '[' + bind.source + '|' + bind.target + (bind.read_only ? "|ro" : "") +
            (bind.image_path ? "|src " + *bind.image_path : "") +
            (bind.image_id ? "|id " + std::to_string(*bind.image_id) : "") +
            (bind.nested ? "" : "|nonested") + ']';
  }
  return text;
}

struct Row {
  const char* text;
  const char* expected;  // shown(), or a piece of the error after "!"
};

template <class Parse>
void check(const Row& row, Parse parse) {
  CAPTURE(row.text);
  const auto binds = parse(row.text);
  if (row.expected[0] == '!') {
    REQUIRE_FALSE(binds);
    CHECK(binds.error().what.find(row.expected + 1) != std::string::npos);
  } else {
    REQUIRE(binds);
    CHECK(shown(*binds) == row.expected);
  }
}

}  // namespace

TEST_SUITE("frontend/plan binds") {
  TEST_CASE("--bind") {
    for (const Row& row : {
             Row{"/a", "[/a|]"},
             Row{"/a:/b", "[/a|/b]"},
             Row{"/a:/b:ro", "[/a|/b|ro]"},
             Row{"/a:/b:rw", "[/a|/b]"},
             Row{"/a::ro", "[/a||ro]"},
             Row{"/a:/b:", "[/a|/b]"},
             Row{"rel/x:/b", "[rel/x|/b]"},
             Row{"/a,/b:/c:ro,/d", "[/a|][/b|/c|ro][/d|]"},
             Row{"/a:/b:ro,rw", "[/a|/b]"},
             Row{"/a:/b,ro", "[/a|/b][ro|]"},
             Row{"x.sif:/d:image-src=/sub,id=3", "[x.sif|/d|src /sub|id 3]"},
             Row{"x.sif:/d:id=3,ro,/e", "[x.sif|/d|ro|id 3][/e|]"},
             Row{R"(/a\:b:/c\,d)", "[/a:b|/c,d]"},
             Row{R"(/a\\:/b)", "[/a\\|/b]"},
             Row{R"(/a\b:/c)", "[/a\\b|/c]"},
             Row{"/with space:/x\ny", "[/with space|/x\ny]"},
             Row{"", ""},
             Row{"/a,,/b,", "[/a|][/b|]"},
             Row{":/b", "!source is empty"},
             Row{"/a:b", "!\"b\" is not an absolute path"},
             Row{"/a:/b:rx", "!\"/a:/b:rx\": unknown option \"rx\""},
             Row{"/a:/b:ro:x", "!too many colons"},
             Row{"/ok,/a:/b:id=x", "!\"/a:/b:id=x\": id \"x\""},
             Row{"/a:/b:id=0", "!id \"0\""},
             Row{"/a:/b:id=4294967296", "!id"},
             Row{"/a:/b:image-src=rel", "!image-src is not an absolute path"},
         }) {
      check(row, parse_binds);
    }
  }

  TEST_CASE("--mount") {
    for (const Row& row : {
             Row{"type=bind,source=/a,destination=/b", "[/a|/b]"},
             Row{"type=bind,src=/a,dst=/b,ro", "[/a|/b|ro]"},
             Row{"src=/a,target=/b,readonly=true,type=bind", "[/a|/b|ro]"},
             Row{"type=bind,src=/a,dst=/b,readonly=false", "[/a|/b]"},
             Row{"type=bind,\"src=/a,b\",dst=/c", "[/a,b|/c]"},
             Row{"type=bind,\"src=/a\"\"b\",dst=/c:d", "[/a\"b|/c:d]"},
             Row{"type=bind,src=/a,dst=/b\ntype=bind,src=/c,dst=/d,nonested\n",
                 "[/a|/b][/c|/d|nonested]"},
             Row{"type=bind,\"src=/new\nline\",dst=/b", "[/new\nline|/b]"},
             Row{"type=bind,src=x.sif,dst=/b,image-src=/s,id=2", "[x.sif|/b|src /s|id 2]"},
             Row{"\n\n", ""},
             Row{"src=/a,dst=/b", "[/a|/b]"},
             Row{"type=tmpfs,dst=/b", "!type \"tmpfs\" is unknown"},
             Row{"type=bind,src=/a", "!destination= is missing"},
             Row{"type=bind,dst=/b", "!source is empty"},
             Row{"type=bind,src=/a,dst=b", "!not an absolute path"},
             Row{"type=bind,src=/a,dst=/b,bind-propagation=shared",
                 "!unknown field \"bind-propagation\""},
             Row{"type=bind,src=/a,dst=/b,ro=perhaps", "!true or false"},
             Row{"type=bind,\"src=/a,dst=/b", "!quote is not closed"},
         }) {
      check(row, parse_mounts);
    }
  }

  TEST_CASE("paths are made absolute and clean, never above the root") {
    CHECK(absolute_path("x", "/home/u") == "/home/u/x");
    CHECK(absolute_path("../x/./y//", "/home/u") == "/home/x/y");
    CHECK(absolute_path("/../../etc", "/home") == "/etc");
    CHECK(absolute_path(".", "/") == "/");
    CHECK(absolute_path("", "/home") == "/home");
    CHECK(absolute_path("/a/..", "/x") == "/");
  }

  TEST_CASE("a path is within a directory by whole components") {
    CHECK(is_within("/home/u/x", "/home/u"));
    CHECK(is_within("/home/u", "/home/u"));
    CHECK_FALSE(is_within("/home/user2", "/home/u"));
    CHECK(is_within("/x", "/"));
  }
}
