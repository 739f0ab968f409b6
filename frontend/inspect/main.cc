// postern-inspect: shows an image's metadata. A program of its own, because it reads squashfs with
// all its compressors, which bin/postern must not carry at every start.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "frontend/inspect/collect.h"
#include "frontend/message/message.h"
#include "frontend/option/option.h"
#include "policy/text/printable.h"
#include "protocol/exit_codes.h"

namespace postern::inspect {
namespace {

using option::Kind;

// clang-format off
constexpr auto kOptions = std::to_array<option::Option>({
    {"all", 0, "", Kind::kFlag, 1, "", "show all there is (implies --json)"},
    {"app", 0, "", Kind::kText, 1, "NAME", "show the parts of this app"},
    {"deffile", 'd', "", Kind::kFlag, 1, "", "show the definition file that the image was built from"},
    {"environment", 'e', "", Kind::kFlag, 1, "", "show the scripts that set the environment"},
    {"help", 'h', "", Kind::kFlag, 1, "", "show this text"},
    {"helpfile", 'H', "", Kind::kFlag, 1, "", "show the image's help text"},
    {"json", 'j', "", Kind::kFlag, 1, "", "print JSON instead of text"},
    {"labels", 'l', "", Kind::kFlag, 1, "", "show the labels (default)"},
    {"list-apps", 0, "", Kind::kFlag, 1, "", "list the apps in the image"},
    {"runscript", 'r', "", Kind::kFlag, 1, "", "show the runscript"},
    {"startscript", 's', "", Kind::kFlag, 1, "", "show the startscript"},
    {"test", 't', "", Kind::kFlag, 1, "", "show the test script"},
});
// clang-format on

std::string usage() {
  return "Usage: postern inspect [OPTIONS] IMAGE\n\nShow the metadata of an image, without running "
         "anything of it.\n\n" +
         option::describe(kOptions, 1);
}

Selection selection_of(const option::Arguments& given) {
  Selection s{.labels = given.given("labels"),
              .deffile = given.given("deffile"),
              .environment = given.given("environment"),
              .helpfile = given.given("helpfile"),
              .runscript = given.given("runscript"),
              .startscript = given.given("startscript"),
              .test = given.given("test"),
              .list_apps = given.given("list-apps"),
              .all = given.given("all"),
              .app = std::string(given.text("app"))};
  if (!s.deffile && !s.environment && !s.helpfile && !s.runscript && !s.startscript && !s.test &&
      !s.list_apps) {
    s.labels = true;
  }
  return s;
}

Outcome<> run(const option::Arguments& given) {
  const Selection want = selection_of(given);
  POSTERN_TRY_ASSIGN(const Metadata all, inspect(given.positional()[0]));
  for (const std::string& what : all.left_out) {
    message::warning(given.positional()[0] + ": left out: " + what);
  }
  POSTERN_TRY_ASSIGN(const Metadata chosen, select(all, want));
  // Also into a pipe: what reads it shows it on a terminal sooner or later.
  const std::string text = want.all || given.given("json")
                               ? text::printable_json(to_json(chosen))
                               : text::printable(to_text(chosen, want), text::Lines::kMany);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return system_problem("writing to standard output", errno);
  }
  return Ok{};
}

int usage_error(const std::string& what) {
  message::error(what);
  std::fputs(usage().c_str(), stderr);
  return kExitUsage;
}

int inspect_main(const std::vector<std::string>& words) {
  constexpr std::array<const char*, 1> kNoEnvironment{nullptr};  // these options have no keys
  const auto given = option::parse(kOptions, 1, words, kNoEnvironment.data(), false);
  if (!given) {
    return usage_error(given.error().what);
  }
  if (given->given("help")) {
    std::fputs(usage().c_str(), stdout);
    return 0;
  }
  if (given->positional().size() != 1) {
    return usage_error("`inspect` takes one image");
  }
  const Outcome<> done = run(*given);
  if (!done) {
    message::fatal(done.error());
    return done.error().exit_code;
  }
  return 0;
}

}  // namespace
}  // namespace postern::inspect

// argv[1] is the command's name, as bin/postern passes it on.
int main(int argc, char** argv) {
  postern::message::configure_from_environment();
  const std::vector<std::string> words(argv + std::min(argc, 2), argv + argc);
  return postern::inspect::inspect_main(words);
}
