#include "policy/ecl/ecl.h"

#include <array>
#include <cstdlib>
#include <string>

#include <sys/stat.h>

#include <doctest/doctest.h>
#include <sched.h>
#include <unistd.h>

namespace {

using postern::Decision;
using postern::RefusalCode;
using postern::ecl::Binding;
using postern::ecl::check_directories;
using postern::ecl::ContainerKind;
using postern::ecl::decide_ecl;
using postern::ecl::EclConfig;
using postern::ecl::EclDecision;
using postern::ecl::find_group;
using postern::ecl::Group;
using postern::ecl::ImageFacts;
using postern::ecl::Mode;
using postern::ecl::parse_ecl;

const std::string kA(40, 'a');
const std::string kB(40, 'b');
const std::string kC(40, 'c');

std::string one_group(const std::string& body) {
  return "activated = true\n[[execgroup]]\n" + body;
}

std::string complaint(const std::string& text) {
  const auto result = parse_ecl(text, "ecl.toml");
  return result ? "" : result.error().what;
}

// An image signed validly by `signers`, in `directory`.
ImageFacts facts(std::vector<std::string> signers, std::string directory = "/images") {
  ImageFacts out;
  out.directory = std::move(directory);
  for (std::string& signer : signers) {
    out.valid.push_back("pgp:" + signer);
    out.claimed.push_back("pgp:" + signer);
  }
  out.any_valid = !out.valid.empty();
  if (out.valid.empty()) {
    out.problem_code = RefusalCode::kEclSignature;
    out.problem = "group 1 has no signature";
  }
  return out;
}

// … where the signatures of `unknown` could not be validated.
ImageFacts with_unknown(ImageFacts known, const std::vector<std::string>& unknown) {
  for (const std::string& signer : unknown) {
    known.claimed.push_back("pgp:" + signer);
    known.unvalidated.push_back("pgp:" + signer);
  }
  known.problem_code = RefusalCode::kNone;
  known.problem.clear();
  return known;
}

EclConfig rule(Mode mode, std::vector<std::string> keys, std::string directory = "/images") {
  EclConfig config;
  config.activated = true;
  config.file = "ecl.toml";
  Group group;
  group.mode = mode;
  group.directory = std::move(directory);
  group.line = 3;
  for (std::string& key : keys) {
    group.keys.push_back("pgp:" + key);
  }
  config.groups.push_back(group);
  return config;
}

}  // namespace

TEST_SUITE("ecl") {
  TEST_CASE("an ecl.toml of Apptainer's is read as it is") {
    const auto config = parse_ecl(
        "activated = true\nlegacyinsecure = false\nsomethingnew = 3\n\n[[execgroup]]\n"
        "  tagname = \"pipeline\"\n  mode = \"whitestrict\"\n  dirpath = \"/var/data/images\"\n"
        "  keyfp = [\"" +
            std::string(40, 'A') + "\"]\n[[ExecGroup2]]\n",
        "ecl.toml");
    REQUIRE(config);
    CHECK(config->activated);
    CHECK_FALSE(config->legacy_insecure);
    REQUIRE(config->groups.size() == 1);
    const Group& group = config->groups[0];
    CHECK(group.tag == "pipeline");
    CHECK(group.mode == Mode::kWhitestrict);
    CHECK(group.directory == "/var/data/images");
    CHECK(group.binding == Binding::kHash);
    CHECK(group.line == 5);
    CHECK(group.keys == std::vector<std::string>{"pgp:" + kA});
  }

  TEST_CASE("key names match in any case, and no file at all is a list that is off") {
    const auto config =
        parse_ecl("Activated = true\n[[ExecGroup]]\nMODE=\"blacklist\"\nKeyFP=[]\n", "e");
    REQUIRE(config);
    CHECK(config->activated);
    CHECK(config->groups.at(0).mode == Mode::kBlacklist);
    const auto accents = parse_ecl(
        "\uFEFF# \u00e9\nactivated = true # \u00e9\n[[execgroup]]\n"
        "mode = \"blacklist\"\ntagname = \"\\\"\u00e9 '\"\ndirpath = '/\u00e9'\n",
        "e");
    REQUIRE(accents);
    CHECK(accents->groups.at(0).directory == "/\u00e9");
    const auto empty = parse_ecl("", "e");
    REQUIRE(empty);
    CHECK_FALSE(empty->activated);
  }

  TEST_CASE("fingerprints of PEM keys and certificates may have colons") {
    std::string colons = "ab";
    for (int i = 1; i < 32; ++i) {
      colons += ":CD";
    }
    const auto config = parse_ecl(
        one_group("mode=\"whitelist\"\nkeysha256=[\"" + colons + "\"]\nbinding=\"sealed\"\n"), "e");
    REQUIRE(config);
    CHECK(config->groups[0].keys[0].size() == 7 + 64);
    CHECK(config->groups[0].keys[0].substr(0, 11) == "sha256:abcd");
    CHECK(config->groups[0].binding == Binding::kSealed);
  }

  TEST_CASE("a file with a mistake is an error that names file and line") {
    struct Row {
      const char* text;
      const char* words;
    };

    const std::array rows = std::to_array<Row>({
        {"activated = 1\n", "ecl.toml:1: 'activated' must be true or false"},
        {"activated = true\nACTIVATED = false\n", "given twice"},
        {"activated = \n", "not TOML"},
        {"activated = true\n\u00e9 = 1\n", "ecl.toml:2: not TOML: a character outside ASCII"},
        {"mo\uFEDF=1", "outside ASCII"},
        {"activated = true \u00a0\n", "outside ASCII"},
        {"a = 5[\"b\u01a2\"]\n", "ecl.toml:1: not TOML"},  // the error comes before the text
        {"a = \"\"\"x\"\"\"\"\"\u00e9", "outside ASCII"},
        {"a = '''\n\u00e9'''", "ecl.toml:2: not TOML"},
        {"a = \"\\\"\u00e9\"\u00e9", "outside ASCII"},
        {"[execgroup]\nmode=\"whitelist\"\n", "array"},
        {"execgroup = [3]\n", "tables"},
        {"[[execgroup]]\nmode=\"white\"\n", "ecl.toml:1: mode 'white'"},
        {"[[execgroup]]\n", "mode ''"},
        {"[[execgroup]]\nmode=\"whitelist\"\n", "names nobody"},
        {"[[execgroup]]\nmode=\"whitestrict\"\nkeyfp=[]\n", "names nobody"},
        {"[[execgroup]]\nmode=\"blacklist\"\nkeyfp=\"aa\"\n", "ecl.toml:3: 'keyfp' must be a list"},
        {"[[execgroup]]\nmode=\"blacklist\"\nkeyfp=[\"aa\"]\n", "not 40 hexadecimal"},
        {"[[execgroup]]\nmode=\"blacklist\"\nkeyfp=[3]\n", "list of strings"},
        {"[[execgroup]]\nmode=\"blacklist\"\nkeysha256=[\"aa\"]\n", "not 64 hexadecimal"},
        {"[[execgroup]]\nmode=\"blacklist\"\ndirpath=\"images\"\n", "absolute"},
        {"[[execgroup]]\nmode=\"blacklist\"\ndirpath=\"/images/\"\n", "absolute"},
        {"[[execgroup]]\nmode=\"blacklist\"\ndirpath=\"/a/../b\"\n", "absolute"},
        {"[[execgroup]]\nmode=\"blacklist\"\ndirpath=\"//a\"\n", "absolute"},
        {"[[execgroup]]\nmode=\"blacklist\"\ndirpath=7\n", "must be a string"},
        {"[[execgroup]]\nmode=\"blacklist\"\nbinding=\"\"\n", "binding ''"},
        {"[[execgroup]]\nmode=\"blacklist\"\nbinding=\"seal\"\n", "binding 'seal'"},
        {"[[execgroup]]\nmode=\"blacklist\"\nMode=\"whitelist\"\n", "given twice"},
        {"[[execgroup]]\nmode=\"blacklist\"\n[[execgroup]]\nmode=\"blacklist\"\n",
         "already used in line 1"},
    });
    for (const Row& row : rows) {
      CAPTURE(row.text);
      const std::string said = complaint(row.text);
      CAPTURE(said);
      CHECK(said.find(row.words) != std::string::npos);
    }
  }

  TEST_CASE("a file of more than a mebibyte, or nested without end, is refused") {
    CHECK(complaint(std::string((1U << 20) + 1, '#')).find("larger") != std::string::npos);
    CHECK_FALSE(complaint("a = " + std::string(100000, '[')).empty());
  }

  TEST_CASE("dirpath must exist and be free of symbolic links") {
    std::string base = "/tmp/postern-ecl-XXXXXX";
    REQUIRE(::mkdtemp(base.data()) != nullptr);
    REQUIRE(::mkdir((base + "/real").c_str(), 0755) == 0);
    REQUIRE(::symlink("real", (base + "/link").c_str()) == 0);
    CHECK(check_directories(rule(Mode::kBlacklist, {}, base + "/real")));
    const auto link = check_directories(rule(Mode::kBlacklist, {}, base + "/link"));
    REQUIRE_FALSE(link);
    CHECK(link.error().cure.find(base + "/real") != std::string::npos);
    CHECK_FALSE(check_directories(rule(Mode::kBlacklist, {}, base + "/none")));
    CHECK(check_directories(rule(Mode::kBlacklist, {}, "")));
    ::unlink((base + "/link").c_str());
    ::rmdir((base + "/real").c_str());
    ::rmdir(base.c_str());
  }

  TEST_CASE("a group is chosen by the exact directory, then the one for any directory") {
    EclConfig config = rule(Mode::kBlacklist, {}, "/images");
    CHECK(find_group(config, "/images") == std::optional<std::size_t>(0));
    CHECK_FALSE(find_group(config, "/images2").has_value());      // same prefix, a sibling
    CHECK_FALSE(find_group(config, "/images/deep").has_value());  // not recursive
    CHECK_FALSE(find_group(config, "/").has_value());
    CHECK_FALSE(find_group(config, "").has_value());
    config.groups.push_back(rule(Mode::kBlacklist, {}, "").groups[0]);
    CHECK(find_group(config, "/images") == std::optional<std::size_t>(0));
    CHECK(find_group(config, "/images2") == std::optional<std::size_t>(1));
    CHECK(find_group(config, "") == std::optional<std::size_t>(1));
  }

  TEST_CASE("the reference's behaviour matrix, row by row") {
    struct Row {
      const char* name;
      EclConfig config;
      ImageFacts image;
      Decision decision;
      RefusalCode reason;
    };

    EclConfig no_group;
    no_group.activated = true;
    const std::vector<Row> rows = {
        {"no execgroup", no_group, facts({kA, kB}), Decision::kRefuse, RefusalCode::kEclNoGroup},
        {"whitelist A", rule(Mode::kWhitelist, {kA}), facts({kA, kB}), Decision::kAllow,
         RefusalCode::kNone},
        {"whitelist B", rule(Mode::kWhitelist, {kB}), facts({kA, kB}), Decision::kAllow,
         RefusalCode::kNone},
        {"unsigned, whitelist", rule(Mode::kWhitelist, {kA}), facts({}), Decision::kRefuse,
         RefusalCode::kEclSignature},
        {"unsigned, blacklist", rule(Mode::kBlacklist, {kA}), facts({}), Decision::kRefuse,
         RefusalCode::kEclSignature},
        {"unsigned, empty blacklist", rule(Mode::kBlacklist, {}), facts({}), Decision::kRefuse,
         RefusalCode::kEclSignature},
        {"rule for /, image below", rule(Mode::kWhitelist, {kA, kB}, "/"), facts({}),
         Decision::kRefuse, RefusalCode::kEclNoGroup},
        {"signed, rule for /", rule(Mode::kWhitelist, {kA, kB}, "/"), facts({kA}),
         Decision::kRefuse, RefusalCode::kEclNoGroup},
        {"whitestrict A+B", rule(Mode::kWhitestrict, {kA, kB}), facts({kA, kB}), Decision::kAllow,
         RefusalCode::kNone},
        {"A, whitestrict A+B", rule(Mode::kWhitestrict, {kA, kB}), facts({kA}), Decision::kRefuse,
         RefusalCode::kEclUnsigned},
        {"A+B, blacklist A", rule(Mode::kBlacklist, {kA}), facts({kA, kB}), Decision::kRefuse,
         RefusalCode::kEclForbidden},
        {"A, blacklist B", rule(Mode::kBlacklist, {kB}), facts({kA}), Decision::kAllow,
         RefusalCode::kNone},
        {"C, whitelist A+B", rule(Mode::kWhitelist, {kA, kB}), facts({kC}), Decision::kRefuse,
         RefusalCode::kEclUnsigned},
        {"B unknown, whitelist B", rule(Mode::kWhitelist, {kB}), with_unknown(facts({kA}), {kB}),
         Decision::kRefuse, RefusalCode::kEclUnsigned},
        {"B unknown, whitelist A+B", rule(Mode::kWhitelist, {kA, kB}),
         with_unknown(facts({kA}), {kB}), Decision::kAllow, RefusalCode::kNone},
        {"B unknown, whitestrict A+B", rule(Mode::kWhitestrict, {kA, kB}),
         with_unknown(facts({kA}), {kB}), Decision::kRefuse, RefusalCode::kEclUnsigned},
        {"both unknown, blacklist A+B", rule(Mode::kBlacklist, {kA, kB}),
         with_unknown(facts({}), {kA, kB}), Decision::kRefuse, RefusalCode::kEclForbidden},
        {"C unknown, blacklist A", rule(Mode::kBlacklist, {kA}), with_unknown(facts({}), {kC}),
         Decision::kAllow, RefusalCode::kNone},
        {"A valid once and invalid once", rule(Mode::kWhitelist, {kA}),
         with_unknown(facts({kA}), {kA}), Decision::kRefuse, RefusalCode::kEclUnsigned},
        {"not activated", EclConfig{}, facts({}), Decision::kAllow, RefusalCode::kNone},
    };
    for (const Row& row : rows) {
      CAPTURE(row.name);
      const EclDecision got = decide_ecl(row.config, row.image);
      CAPTURE(got.why);
      CHECK(got.decision == row.decision);
      CHECK(got.reason == row.reason);
      CHECK_FALSE(got.why.empty());
    }
  }

  TEST_CASE(
      "signers x directories x integrity: only the named key in the named directory, intact") {
    const std::vector<std::vector<std::string>> signers = {{}, {kA}, {kA, kB}, {kC}};
    for (const Mode mode : {Mode::kWhitelist, Mode::kWhitestrict, Mode::kBlacklist}) {
      for (const auto& who : signers) {
        for (const std::string directory : {"/images", "/other", "/images2", "/images/x", ""}) {
          for (const bool intact : {true, false}) {
            ImageFacts image = facts(who, directory);
            if (!intact) {
              image.problem_code = RefusalCode::kEclSignature;
              image.problem = "object 2: data differs from what was signed";
            }
            const bool has_a = !who.empty() && who[0] == kA;
            const bool by_key = mode == Mode::kBlacklist ? !who.empty() && !has_a : has_a;
            const bool expected = by_key && intact && directory == "/images";
            CAPTURE(directory);
            CAPTURE(intact);
            CAPTURE(who.size());
            const EclDecision got = decide_ecl(rule(mode, {kA}), image);
            CHECK((got.decision == Decision::kAllow) == expected);
            CHECK((got.reason == RefusalCode::kNone) == expected);
          }
        }
      }
    }
  }

  TEST_CASE("profiles are read strictly, and each says whose images it is for") {
    const std::string group = "[[execgroup]]\ntagname=\"t\"\nmode=\"blacklist\"\nkeyfp=[]\n";
    const auto config =
        parse_ecl(group +
                      "[[profile]]\nname=\"a\"\nexecgroup=\"t\"\nrequire=[\"pid\",\"net\"]\n"
                      "deny=[\"overlay\",\"home\"]\nbinds=[\"/"
                      "data\"]\n[[profile]]\nname=\"b\"\nunsigned=true\n",
                  "e");
    REQUIRE(config);
    REQUIRE(config->profiles.size() == 2);
    CHECK(config->profiles[0].require == (CLONE_NEWPID | CLONE_NEWNET));
    CHECK(config->profiles[0].deny == (postern::ecl::kDenyOverlay | postern::ecl::kDenyHome));
    CHECK(describe(config->profiles[0]) ==
          "requires pid,net; denies overlay,home; binds below /data");
    CHECK(config->profiles[0].line == 5);
    CHECK(config->boxes_unsigned());
    for (const char* wrong :
         {"name=\"a\"\n", "unsigned=true\n", "name=\"a\"\nunsigned=false\n",
          "name=\"a\"\nexecgroup=\"u\"\n", "name=\"a\"\nunsigned=true\nexecgroup=\"t\"\n",
          "name=\"a\"\nunsigned=true\nrequires=[]\n",
          "name=\"a\"\nunsigned=true\nrequire=[\"user\"]\n",
          "name=\"a\"\nunsigned=true\ndeny=\"overlay\"\n", "name=\"a\"\nunsigned=true\ndeny=[1]\n",
          "name=\"a\"\nunsigned=true\nbinds=[\"data\"]\n",
          "name=\"a\"\nunsigned=true\nbinds=[\"/a/../b\"]\n", "name=\"a\"\nkeyfp=[\"12\"]\n",
          "name=\"a\"\nunsigned=true\n[[profile]]\nname=\"a\"\nunsigned=true\n"}) {
      CAPTURE(wrong);
      const auto refused = parse_ecl(group + "[[profile]]\n" + wrong, "e");
      REQUIRE_FALSE(refused);
      CHECK(refused.error().what.starts_with("e:"));
    }
  }

  TEST_CASE("an admitted image has its signer's profile, and the rest is boxed in or refused") {
    EclConfig config = rule(Mode::kWhitelist, {kA, kB});
    config.groups[0].tag = "t";
    config.profiles = {{.name = "b", .keys = {"pgp:" + kB}}, {.name = "t", .group = "t"}};
    CHECK(decide_ecl(config, facts({kB})).profile == 0);
    CHECK(decide_ecl(config, facts({kA})).profile == 1);
    CHECK(decide_ecl(config, with_unknown(facts({kA}), {kB})).profile == 1);
    CHECK(decide_ecl(config, facts({kC})).decision == Decision::kRefuse);
    config.profiles.push_back({.name = "boxed", .is_for_unsigned = true});
    ImageFacts served = facts({kA});
    served.kind = ContainerKind::kFuse;
    ImageFacts changed = facts({kA});
    changed.problem_code = RefusalCode::kEclSignature;
    for (const ImageFacts& image :
         {facts({}), facts({kC}), served, changed, facts({kA}, "/other")}) {
      const EclDecision got = decide_ecl(config, image);
      CHECK(got.decision == Decision::kAllow);
      CHECK(got.boxed);
      CHECK(got.profile == 2);
      CHECK_FALSE(got.trusted);
    }
    CHECK_FALSE(decide_ecl(config, facts({kA})).boxed);
    // A forbidden signer stays forbidden.
    EclConfig forbidding = rule(Mode::kBlacklist, {kA});
    forbidding.profiles = {{.name = "boxed", .is_for_unsigned = true}};
    CHECK(decide_ecl(forbidding, facts({kA})).reason == RefusalCode::kEclForbidden);
    CHECK(decide_ecl(forbidding, facts({kA})).decision == Decision::kRefuse);
    // A list that is off gives no profile.
    config.activated = false;
    CHECK_FALSE(decide_ecl(config, facts({kB})).profile);
  }

  TEST_CASE("what carries no signature is refused by an active list, whatever the rules say") {
    for (const ContainerKind kind : {ContainerKind::kSquashfs, ContainerKind::kExt,
                                     ContainerKind::kDirectory, ContainerKind::kFuse}) {
      ImageFacts image = facts({kA});
      image.kind = kind;
      const EclDecision got = decide_ecl(rule(Mode::kBlacklist, {}, ""), image);
      CHECK(got.decision == Decision::kRefuse);
      CHECK(got.reason == RefusalCode::kUnboundRoot);
      CHECK(decide_ecl(EclConfig{}, image).decision == Decision::kAllow);
    }
  }

  TEST_CASE("an image is admitted when it is bound at least as strongly as the rule asks") {
    const std::array all = {Binding::kHash, Binding::kUnwritable, Binding::kSealed};
    for (const Binding asked : all) {
      for (const Binding offered : all) {
        EclConfig config = rule(Mode::kWhitelist, {kA});
        config.groups[0].binding = asked;
        ImageFacts image = facts({kA});
        image.binding = offered;
        const EclDecision got = decide_ecl(config, image);
        CAPTURE(static_cast<int>(asked));
        CAPTURE(static_cast<int>(offered));
        CHECK((got.decision == Decision::kAllow) == (offered >= asked));
        if (offered < asked) {
          CHECK(got.reason == RefusalCode::kEclBinding);
          CHECK_FALSE(got.trusted);
        } else {
          // Only bound bytes may go to the kernel's file system driver.
          CHECK(got.trusted == (offered != Binding::kHash));
        }
      }
    }
  }

  TEST_CASE("a seal that nobody valid signed binds nothing and makes nothing trusted") {
    ImageFacts image = with_unknown(facts({}), {kC});
    image.binding = Binding::kSealed;
    EclConfig config = rule(Mode::kBlacklist, {kA});
    const EclDecision plain = decide_ecl(config, image);
    CHECK(plain.decision == Decision::kAllow);
    CHECK_FALSE(plain.trusted);
    config.groups[0].binding = Binding::kUnwritable;
    CHECK(decide_ecl(config, image).reason == RefusalCode::kEclBinding);
    CHECK_FALSE(decide_ecl(EclConfig{}, image).trusted);
  }

  TEST_CASE("a valid signature and bound bytes make an image trusted without a list too") {
    ImageFacts image = facts({kA});
    image.binding = Binding::kUnwritable;
    CHECK(decide_ecl(EclConfig{}, image).trusted);
    image.problem_code = RefusalCode::kSeal;
    CHECK_FALSE(decide_ecl(EclConfig{}, image).trusted);
    image = facts({kA});
    CHECK_FALSE(decide_ecl(EclConfig{}, image).trusted);
  }
}
