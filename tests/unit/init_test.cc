#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/init/oci_script.h"
#include "frontend/init/payload.h"
#include "frontend/init/record.h"
#include "protocol/limits.h"

using std::string_view_literals::operator""sv;
using postern::init::Action;
using postern::init::decode;
using postern::init::encode;
using postern::init::Environment;
using postern::init::LaunchRecord;
using postern::shell::Reach;

namespace {

LaunchRecord full_record() {
  LaunchRecord record;
  record.action = Action::kRun;
  record.argv = {"a", "", "b c"};
  record.environment = {"X=1", "Y=two\nlines"};
  record.forwarded = {"F=$X"};
  record.fixed = {"HOME=/h"};
  record.prepend_path = "/first";
  record.append_path = "/last";
  record.cwd = "/work";
  record.cwd_required = true;
  record.home = "/h";
  record.app = "app";
  record.shell = "/bin/zsh";
  record.umask = 077;
  record.no_eval = true;
  record.reaper = true;
  record.libs32 = true;
  record.glibc_needed = 36;
  record.glibc_needed_by = "libdrm.so.2";
  record.ignored_signals = 1ULL << 63;
  record.blocked_signals = 2;
  record.filters = {{1, 2, 0, 255}, {}, {7}};
  record.message_level = -3;
  return record;
}

}  // namespace

TEST_SUITE("init/record") {
  TEST_CASE("a record survives its bytes") {
    const LaunchRecord record = full_record();
    const std::string bytes = encode(record);
    const auto back = decode(bytes);
    REQUIRE(back.has_value());
    CHECK(encode(*back) == bytes);
    CHECK(back->argv == record.argv);
    CHECK(back->environment == record.environment);
    CHECK(back->ignored_signals == record.ignored_signals);
    CHECK(back->filters == record.filters);
    CHECK(back->message_level == -3);
    CHECK(back->cwd_required);
  }

  TEST_CASE("a record cut anywhere is refused, and so is one with more behind it") {
    const std::string bytes = encode(full_record());
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      CAPTURE(length);
      CHECK_FALSE(decode(std::string_view(bytes).substr(0, length)).has_value());
    }
    CHECK_FALSE(decode(bytes + '\0').has_value());
  }

  TEST_CASE("any byte changed gives a record or a refusal, within the bounds") {
    const std::string bytes = encode(full_record());
    std::size_t accepted = 0;
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      for (const char value : {'\x00', '\x01', '\x7f', '\x80', '\xff'}) {
        std::string changed = bytes;
        changed[at] = value;
        const auto record = decode(changed);
        if (record) {
          ++accepted;
          CHECK(encode(*record) == changed);
        }
      }
    }
    CHECK(accepted > 0);
  }

  TEST_CASE(
      "counts and lengths beyond the bytes, unknown actions and NULs inside texts are refused") {
    std::string huge = "PLR1\x01";
    huge += "\xff\xff\xff\xff"sv;
    CHECK_FALSE(decode(huge).has_value());
    LaunchRecord record = full_record();
    std::string bytes = encode(record);
    bytes[4] = '\x06';
    CHECK_FALSE(decode(bytes).has_value());
    record.argv = {std::string("a\0b", 3)};
    CHECK_FALSE(decode(encode(record)).has_value());
    record.argv = {std::string(postern::init::kMaxRecordBytes, 'x')};
    CHECK_FALSE(decode(encode(record)).has_value());
  }
}

TEST_SUITE("init/oci_script") {
  using Words = std::vector<std::string>;

  TEST_CASE("the runscript that our builds write for ENTRYPOINT and CMD needs no shell") {
    const Environment none;
    const auto both =
        "#!/bin/sh\n# c\n[ $# -gt 0 ] || set -- 'd e' 'it'\\''s'\nexec '/entry' '-x' \"$@\"\n"sv;
    CHECK(postern::init::oci_command(both, {}, none, true) == Words{"/entry", "-x", "d e", "it's"});
    CHECK(postern::init::oci_command(both, {"a", "b"}, none, true) ==
          Words{"/entry", "-x", "a", "b"});
    const auto command = "#!/bin/sh\n[ $# -gt 0 ] || set -- '/c'\nexec \"$@\"\n"sv;
    CHECK(postern::init::oci_command(command, {}, none, true) == Words{"/c"});
    CHECK(postern::init::oci_command(command, {"/other"}, none, true) == Words{"/other"});
    CHECK(postern::init::oci_command("#!/bin/sh\nexec '/e' \"$@\"\n", {"1"}, none, true) ==
          Words{"/e", "1"});
  }

  TEST_CASE("a runscript that does anything else is executed as it is") {
    const Environment none;
    for (const std::string_view script :
         {"#!/bin/sh\necho hello\nexec 'x' \"$@\"\n"sv, "#!/bin/sh\nexec 'x' \"$@\"\necho more\n"sv,
          "#!/bin/bash\nexec 'x' \"$@\"\n"sv, "#!/bin/sh\nexec $X \"$@\"\n"sv,
          "#!/bin/sh\nexec x; y \"$@\"\n"sv, "#!/bin/sh\nexec 'x'\n"sv, "#!/bin/sh\n"sv,
          "#!/bin/sh\nexec x > y \"$@\"\n"sv, "#!/bin/sh\nexec \"$(id)\" \"$@\"\n"sv}) {
      CAPTURE(script);
      CHECK_FALSE(postern::init::oci_command(script, {}, none, true).has_value());
      CHECK_FALSE(postern::init::oci_command(script, {}, none, false).has_value());
    }
  }

  TEST_CASE("the form of other builds is understood where the image has no shell") {
    Environment environment;
    environment.set("V", "a b");
    const auto script =
        "#!/bin/sh\nOCI_ENTRYPOINT='\"/e\" \"$V\"'\nOCI_CMD='\"c\"'\n# prepare\nfor arg in \"$@\"; do x; done\n"sv;
    CHECK_FALSE(postern::init::oci_command(script, {}, environment, true).has_value());
    CHECK(postern::init::oci_command(script, {}, environment, false) == Words{"/e", "a b", "c"});
    CHECK(postern::init::oci_command(script, {"z"}, environment, false) == Words{"/e", "a b", "z"});
  }
}

TEST_SUITE("init/payload") {
  TEST_CASE(
      "a host variable comes back where the scripts left it alone, not where they set or emptied "
      "it") {
    LaunchRecord record;
    record.environment = {"KEPT=host", "SET=host", "EMPTIED=host", "NAME=host"};
    record.fixed = {"NAME=runtime", "PATH=/ignored"};
    Environment environment = postern::init::base_environment(record);
    CHECK(*environment.find("PATH") == "/ignored");
    environment.set("SET", "image");
    environment.set("EMPTIED", "");
    environment.set("NAME", "image");
    environment.set("PATH", "/image");
    postern::init::restore_host(environment, record);
    CHECK(*environment.find("KEPT") == "host");
    CHECK(*environment.find("SET") == "image");
    CHECK(environment.find("EMPTIED") == nullptr);
    CHECK(*environment.find("NAME") == "runtime");
    CHECK(*environment.find("PATH") == "/image");
  }

  TEST_CASE("forwarded values: each sees those before it; a program takes the whole reach") {
    LaunchRecord record;
    record.forwarded = {"A=plain", "B=$A/x"};
    Environment environment;
    CHECK(postern::init::apply_forwarded(environment, record, Reach::kFiles));
    CHECK(*environment.find("B") == "plain/x");
    record.forwarded = {"C=$(echo one)", "D=$C two", "E=$(", "F=\\$A"};
    CHECK_FALSE(postern::init::apply_forwarded(environment, record, Reach::kFiles));
    CHECK(postern::init::apply_forwarded(environment, record, Reach::kEverything));
    CHECK(*environment.find("D") == "one two");
    CHECK(*environment.find("E") == "$(");
    CHECK(*environment.find("F") == "$A");
    record.no_eval = true;
    CHECK(postern::init::apply_forwarded(environment, record, Reach::kFiles));
    CHECK(*environment.find("C") == "$(echo one)");
  }

  TEST_CASE("a PATH that was asked for by name is all there is") {
    LaunchRecord record;
    record.forwarded = {"PATH=/only"};
    Environment environment;
    environment.set("PATH", "/only");
    postern::init::finish_search_paths(environment, record);
    CHECK(*environment.find("PATH") == "/only");
  }

  TEST_CASE(
      "search paths: additions around the image's, missing defaults at the end, libraries once") {
    LaunchRecord record;
    record.prepend_path = "/first";
    record.append_path = "/last";
    Environment environment;
    environment.set("PATH", "/image:/bin");
    environment.set("LD_LIBRARY_PATH", "/a:/.singularity.d/libs");
    environment.set("PREPEND_LD_LIBRARY_PATH", "/p");
    postern::init::finish_search_paths(environment, record);
    CHECK(*environment.find("PATH") ==
          "/first:/image:/bin:/last:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin");
    CHECK(*environment.find("LD_LIBRARY_PATH") == "/p:/a:/.singularity.d/libs");
    CHECK(environment.find("PREPEND_LD_LIBRARY_PATH") == nullptr);
  }
}
