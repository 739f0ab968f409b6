#include "frontend/option/option.h"

#include <array>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "frontend/cli/action_options.h"

using postern::Outcome;
using postern::cli::action_options;
using postern::cli::kExec;
using postern::cli::kShell;
using postern::option::Arguments;
using postern::option::parse;
using Words = std::vector<std::string>;

namespace {

Outcome<Arguments> parse_exec(const Words& words, std::vector<const char*> environment = {}) {
  environment.push_back(nullptr);
  return parse(action_options(), kExec, words, environment.data(), true);
}

}  // namespace

TEST_SUITE("frontend/cli options") {
  TEST_CASE("every spelling of pflag sets the same value") {
    for (const Words& words : {Words{"--bind", "/a"}, Words{"--bind=/a"}, Words{"-B", "/a"},
                               Words{"-B/a"}, Words{"-B=/a"}, Words{"-cB", "/a"}}) {
      const auto parsed = parse_exec(words);
      CAPTURE(words[0]);
      REQUIRE(parsed);
      CHECK(parsed->values("bind") == Words{"/a"});
    }
  }

  TEST_CASE("options end at the first word that is none, so the payload keeps its own") {
    const auto parsed = parse_exec({"-c", "image", "ls", "-e", "--bind"});
    REQUIRE(parsed);
    CHECK(parsed->given("contain"));
    CHECK_FALSE(parsed->given("cleanenv"));
    CHECK(parsed->positional() == Words{"image", "ls", "-e", "--bind"});
  }

  TEST_CASE("two dashes end the options; a single one is a word") {
    const auto dashes = parse_exec({"--", "-c", "x"});
    REQUIRE(dashes);
    CHECK(dashes->positional() == Words{"-c", "x"});
    const auto one = parse_exec({"-", "x"});
    REQUIRE(one);
    CHECK(one->positional() == Words{"-", "x"});
  }

  TEST_CASE("lists split at commas and add up, arrays keep commas, flags can be taken back") {
    const auto parsed = parse_exec({"--no-mount", "home, tmp", "--no-mount=cwd", "-B", "/a,/b",
                                    "-B/c", "--contain", "--contain=false"});
    REQUIRE(parsed);
    CHECK(parsed->values("no-mount") == Words{"home", "tmp", "cwd"});
    CHECK(parsed->values("bind") == Words{"/a,/b", "/c"});
    CHECK_FALSE(parsed->given("contain"));
  }

  TEST_CASE("a usage error says which word, and ends with 1") {
    struct Row {
      Words words;
      const char* message;
    };

    for (const Row& row : {Row{{"--nosuch"}, "unknown flag: --nosuch"},
                           Row{{"-ek"}, "unknown shorthand flag: 'k' in -ek"},
                           Row{{"--bind"}, "flag needs an argument: --bind"},
                           Row{{"-B"}, "flag needs an argument: 'B' in -B"},
                           Row{{"--contain=maybe"},
                               "invalid argument \"maybe\" for \"--contain\": true or "
                               "false is expected"},
                           Row{{"--shell", "sh"}, "unknown flag: --shell"}}) {
      const auto parsed = parse_exec(row.words);
      REQUIRE_FALSE(parsed);
      CHECK(parsed.error().what == row.message);
      CHECK(parsed.error().exit_code == 1);
    }
  }

  TEST_CASE("command line beats POSTERN_ beats APPTAINER_ beats SINGULARITY_, in any order") {
    const char* postern = "POSTERN_WORKDIR=/p";
    const char* apptainer = "APPTAINER_WORKDIR=/a";
    const char* singularity = "SINGULARITY_WORKDIR=/s";
    CHECK(parse_exec({"-W", "/c"}, {postern})->text("workdir") == "/c");
    CHECK(parse_exec({}, {singularity, apptainer, postern})->text("workdir") == "/p");
    CHECK(parse_exec({}, {postern, apptainer, singularity})->text("workdir") == "/p");
    CHECK(parse_exec({}, {singularity, apptainer})->text("workdir") == "/a");
    CHECK(parse_exec({}, {singularity})->text("workdir") == "/s");
    CHECK(parse_exec({}, {"POSTERN_WORKDIR= ", apptainer})->text("workdir") == "/a");
    CHECK(parse_exec({"--contain=false"}, {"POSTERN_CONTAIN=1"})->given("contain") == false);
    CHECK(parse_exec({}, {singularity, apptainer})->warnings() ==
          Words{"APPTAINER_WORKDIR and SINGULARITY_WORKDIR differ: the first one counts"});
    CHECK(parse_exec({}, {apptainer, "SINGULARITY_WORKDIR=/a"})->warnings().empty());
  }

  TEST_CASE("binds of command line and environment add up, command line first") {
    const auto parsed =
        parse_exec({"-B", "/c"}, {"SINGULARITY_BIND=/s", "APPTAINER_BINDPATH=/a", "POSTERN_BIND=/p",
                                  "APPTAINER_MOUNT=type=bind,src=/m,dst=/m"});
    REQUIRE(parsed);
    CHECK(parsed->values("bind") == Words{"/c", "/p", "/a"});
    CHECK(parsed->values("mount") == Words{"type=bind,src=/m,dst=/m"});
  }

  TEST_CASE("an environment variable of an option that the command lacks changes nothing") {
    const auto parsed = parse_exec({}, {"POSTERN_SHELL=/bin/zsh", "POSTERN_NAME=x"});
    REQUIRE(parsed);
    CHECK(parsed->text("shell").empty());
  }

  TEST_CASE(
      "an option of Apptainer that cannot work here is refused with the way out, never ignored") {
    unsigned refused = 0;
    for (const auto& option : action_options()) {
      if (option.refusal.empty()) {
        continue;
      }
      CAPTURE(option.name);
      const auto parsed = parse_exec({"--" + std::string(option.name) + "=1"});
      REQUIRE_FALSE(parsed);
      CHECK(parsed.error().exit_code == 255);
      CHECK(parsed.error().cure == option.refusal);
      ++refused;
    }
    CHECK(refused > 3);
  }

  TEST_CASE("long names and letters are unique within a command") {
    const auto options = action_options();
    for (std::size_t i = 0; i < options.size(); ++i) {
      for (std::size_t j = i + 1; j < options.size(); ++j) {
        CAPTURE(options[i].name);
        CHECK(options[i].name != options[j].name);
        CHECK((options[i].letter == 0 || options[i].letter != options[j].letter ||
               (options[i].commands & options[j].commands) == 0));
      }
    }
  }
}

TEST_SUITE("frontend/cli actions") {
  const auto action_of = [](const Words& words) {
    return postern::cli::to_action(*parse_exec(words));
  };

  TEST_CASE("--containall and --compat are the sum of their parts") {
    const auto all = action_of({"--containall"});
    REQUIRE(all);
    CHECK((all->contain && all->pid && all->ipc && all->clean_environment));
    CHECK_FALSE(all->no_init);
    CHECK_FALSE(action_of({"--containall", "--no-pid"})->pid);
    const auto compat = action_of({"--compat"});
    REQUIRE(compat);
    CHECK((compat->contain && compat->no_init && compat->no_umask && compat->no_eval &&
           compat->writable_tmpfs));
  }

  TEST_CASE("--env takes several settings, and a comma inside a value stays in it") {
    const auto action = action_of({"--env", "A=1,B=two words,3,C=", "--env", "D=x=y"});
    REQUIRE(action);
    CHECK(action->set == Words{"A=1", "B=two words,3", "C=", "D=x=y"});
    CHECK(action_of({"--env", "novalue"}).error().exit_code == 1);
  }

  TEST_CASE("a host name implies a UTS namespace and must be one") {
    CHECK(action_of({"--hostname", "node-1.site"})->uts);
    for (const char* name : {"-x", "x-", "a b", "a/b", ".a"}) {
      CAPTURE(name);
      CHECK_FALSE(action_of({"--hostname", name}));
    }
    CHECK(action_of({"--hostname", std::string(64, 'a')}));  // HOST_NAME_MAX
    CHECK_FALSE(action_of({"--hostname", std::string(65, 'a')}));
  }

  TEST_CASE("the network is none or a carried one") {
    CHECK(action_of({"--net", "--network", "none"})->network == postern::plan::Network::kNone);
    CHECK(action_of({"--network", "none"})->network == postern::plan::Network::kNone);
    CHECK(action_of({"--net"})->network == postern::plan::Network::kCarried);
    CHECK(action_of({"--network", "pasta"})->network_name == "pasta");
    CHECK_FALSE(action_of({"--network", "bridge"}));
  }

  TEST_CASE("capabilities go by any of their spellings") {
    CHECK(action_of({"--add-caps", "cap_net_raw,SYS_PTRACE"})->add_capabilities ==
          ((1ULL << 13) | (1ULL << 19)));
    CHECK(action_of({"--drop-caps", "all"})->drop_capabilities == (1ULL << 41) - 1);
    CHECK_FALSE(action_of({"--add-caps", "CAP_NOSUCH"}));
  }

  TEST_CASE("--security knows seccomp and says what to do about the rest") {
    CHECK(action_of({"--security", "seccomp:/p.json"})->seccomp == "/p.json");
    for (const char* value : {"uid:0", "selinux:x", "apparmor:y", "nonsense"}) {
      CAPTURE(value);
      const auto action = action_of({"--security", value});
      REQUIRE_FALSE(action);
      CHECK_FALSE(action.error().cure.empty());
    }
  }
}
