#include "frontend/suid/accounts.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>
#include <stdlib.h>

using postern::suid::parse_accounts;

TEST_SUITE("frontend/suid accounts") {
  TEST_CASE("two files, either of which may be missing or empty, with any bytes in them") {
    const auto both = parse_accounts("5\na\n2\nb3\nc:d");
    REQUIRE(both);
    CHECK(both->passwd == "a\n2\nb");
    CHECK(both->group == "c:d");
    const auto none = parse_accounts("-\n-\n");
    REQUIRE(none);
    CHECK((none->passwd.empty() && none->group.empty()));
    CHECK(parse_accounts("0\n1\nx")->group == "x");
  }

  TEST_CASE("anything else is an error") {
    for (const char* text :
         {"", "5\nab", "1\na", "x\n-\n", "-1\n-\n", "99999999999999999999999\n-\n", "5"}) {
      CAPTURE(text);
      CHECK_FALSE(parse_accounts(text));
    }
  }

  TEST_CASE("of a directory, links are followed inside it only") {
    char name[] = "/tmp/postern-unit-XXXXXX";
    const std::string root = ::mkdtemp(name);
    std::filesystem::create_directories(root + "/etc");
    std::filesystem::create_directories(root + "/inside");
    std::ofstream(root + "/inside/passwd") << "of the image\n";
    std::filesystem::create_symlink("/inside/passwd", root + "/etc/passwd");
    std::filesystem::create_symlink("/../../../../etc/group", root + "/etc/group");
    postern::plan::LaunchPlan plan;
    plan.sources.push_back({.kind = postern::plan::Source::Kind::kPath, .path = root});
    std::optional<postern::suid::ImageAccounts> none;
    const auto accounts = postern::suid::read_accounts(plan, none);
    std::filesystem::remove_all(root);
    REQUIRE(accounts);
    CHECK(accounts->passwd == "of the image\n");
    CHECK(accounts->group.empty());
  }
}
