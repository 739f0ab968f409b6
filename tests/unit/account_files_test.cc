#include <string>

#include <doctest/doctest.h>

#include "policy/accounts/accounts.h"
#include "policy/accounts/files.h"

using postern::accounts::field;
using postern::accounts::group_of_line;
using postern::accounts::Key;
using postern::accounts::line_in;
using postern::accounts::services_of;
using postern::accounts::user_of_line;

namespace {

constexpr std::string_view kPasswd =
    "root:x:0:0:root:/root:/bin/bash\n"
    "broken:x:1001\n"
    "unreadable:x:1001:many:::\n"
    "+alice:x:1001:100::/plus:/bin/plus\n"
    "alice:x:1001:100:Alice A:/home/alice:/bin/zsh\n"
    "second:x:1001:100::/:/bin/sh\n"
    "1001:x:1005:100::/:/bin/sh";
constexpr std::string_view kGroup =
    "users:x:100:\nproject:x:4000:alice,bob\nlate:x:4000:\n+::5000:\n";

bool files_first(std::string_view settings) {
  return services_of(settings, "passwd").files_first;
}

bool others(std::string_view settings) {
  return services_of(settings, "passwd").others;
}

}  // namespace

TEST_SUITE("policy/accounts") {
  TEST_CASE("the files come first where nsswitch.conf says so, or nothing") {
    CHECK(files_first(""));
    CHECK(files_first("# passwd: sss\npasswd:\tfiles systemd\n"));
    CHECK(files_first("  passwd:files[NOTFOUND=return] ldap\n"));
    CHECK(files_first("passwd: files\ngroup: sss"));
    CHECK(files_first("passwd_compat: sss\n"));
    CHECK_FALSE(files_first("passwd: sss files\ngroup: files\n"));
    CHECK_FALSE(files_first("passwd: compat\n"));
    CHECK_FALSE(files_first("passwd: filesystem\n"));
    CHECK_FALSE(files_first("passwd:"));
  }

  TEST_CASE("others are asked where nsswitch.conf names them, or nothing") {
    CHECK(others(""));
    CHECK(others("passwd: files systemd\n"));
    CHECK(others("passwd:files[NOTFOUND=continue] ldap\n"));
    CHECK(others("passwd: sss\n"));
    CHECK_FALSE(others("passwd: files\n"));
    CHECK_FALSE(others("passwd:\tfiles \t # and sss\ngroup: sss\n"));
  }

  TEST_CASE("the first whole line of an account answers") {
    const std::string line = line_in(kPasswd, {Key::kUserId, "1001"});
    CHECK(line == "alice:x:1001:100:Alice A:/home/alice:/bin/zsh");
    const auto alice = user_of_line(line);
    REQUIRE(alice.has_value());
    CHECK(alice->name == "alice");
    CHECK(alice->uid == 1001);
    CHECK(alice->gid == 100);
    CHECK(alice->gecos == "Alice A");
    CHECK(alice->home == "/home/alice");
    CHECK(alice->shell == "/bin/zsh");
    CHECK(line_in(kPasswd, {Key::kUserName, "second"}).starts_with("second:"));
    CHECK(line_in(kPasswd, {Key::kUserName, "1001"}).starts_with("1001:x:1005:"));
    CHECK(line_in(kGroup, {Key::kGroupId, "4000"}) == "project:x:4000:alice,bob");
    CHECK(group_of_line("project:x:4000:alice,bob")->name == "project");
    CHECK(group_of_line(line_in(kGroup, {Key::kGroupName, "users"}))->gid == 100);
  }

  TEST_CASE("what the files do not know has no line") {
    for (const char* name : {"", "broken", "unreadable", "+alice", "nobody", "x"}) {
      CHECK(line_in(kPasswd, {Key::kUserName, name}).empty());
    }
    CHECK(line_in(kPasswd, {Key::kUserId, "1002"}).empty());
    CHECK(line_in(kPasswd, {Key::kUserId, "alice"}).empty());
    CHECK(line_in("", {Key::kUserId, "0"}).empty());
    CHECK(line_in(kGroup, {Key::kGroupId, "5000"}).empty());
    CHECK_FALSE(user_of_line("").has_value());
    CHECK_FALSE(user_of_line("a:x:1:1:g:/").has_value());
    CHECK_FALSE(group_of_line("a:x").has_value());
  }

  TEST_CASE("a field has neither a colon nor a line end") {
    CHECK(field("a:b\nc") == "a b c");
  }
}
