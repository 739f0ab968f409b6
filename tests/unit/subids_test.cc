#include "frontend/system/subids.h"

#include <string>

#include <doctest/doctest.h>

namespace {

using postern::system::count_of;
using postern::system::holds_id;
using postern::system::IdRange;
using postern::system::ids_of_map;
using postern::system::subordinate_ranges;

std::vector<IdRange> of_alice(std::string_view text) {
  return subordinate_ranges(text, "alice", 1000, 1000);
}

TEST_SUITE("subids") {
  TEST_CASE("every range of the name or the number counts, in file order") {
    CHECK(of_alice("bob:1:1\nalice:100000:65536\n1000:300000:10\nalice:200000:5") ==
          std::vector<IdRange>{{100000, 65536}, {300000, 10}, {200000, 5}});
    CHECK(count_of(of_alice("alice:100000:65536\n1000:300000:10\n")) == 65546);
    CHECK(subordinate_ranges("alice:1:5\n7:9:1", "", 7, 7) == std::vector<IdRange>{{9, 1}});
  }

  TEST_CASE("in the groups' file the owner is a uid, and the own id a gid") {
    CHECK(subordinate_ranges("1000:2000:10\n50:5000:10", "", 1000, 50) ==
          std::vector<IdRange>{{2000, 10}});
  }

  TEST_CASE("lines that newuidmap(1) does not take give nothing") {
    for (const char* line : {"alice", "alice:1", "alice:1:x", "alice:1:-5", "alice:x:5",
                             "alice:+1:5", "alice: 1:5", "alice:1:5:", "alice:1:5:6", "alice:1:0",
                             "alice2:1:5", "!alice:1:5", ":5:7", "", "alice:4294967295:1",
                             "alice:4294967290:10", "alice:99999999999:1", "alice:2:99999999999"}) {
      CAPTURE(line);
      CHECK(of_alice(line).empty());
    }
  }

  TEST_CASE("the kernel takes neither overlapping ranges nor the caller's own id twice") {
    CHECK(of_alice("alice:2000:100\nalice:2099:10\nalice:1900:101\nalice:2100:1") ==
          std::vector<IdRange>{{2000, 100}, {2100, 1}});
    CHECK(of_alice("alice:900:200\nalice:5000:1") == std::vector<IdRange>{{5000, 1}});
  }

  TEST_CASE("more ranges than a map has lines are cut") {
    std::string text;
    for (int i = 0; i < 1000; ++i) {
      text += "alice:" + std::to_string(100000 + 10 * i) + ":5\n";
    }
    CHECK(of_alice(text).size() == 339);
  }

  TEST_CASE("a map's ids inside") {
    const auto ids =
        ids_of_map("         0       1000          1\n         1     100000      65536\n");
    CHECK(ids == std::vector<IdRange>{{0, 1}, {1, 65536}});
    CHECK(holds_id(ids, 65536));
    CHECK_FALSE(holds_id(ids, 65537));
    CHECK(ids_of_map("0 0 4294967295\n") == std::vector<IdRange>{{0, 4294967295}});
    CHECK(ids_of_map("nonsense\n\n1 2\n").empty());
  }
}

}  // namespace
