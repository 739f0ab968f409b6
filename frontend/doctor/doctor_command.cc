#include "frontend/doctor/doctor_command.h"

#include <array>
#include <cstdio>
#include <string>

#include "frontend/doctor/report.h"
#include "frontend/message/message.h"
#include "frontend/option/option.h"
#include "frontend/system/replace_file.h"
#include "policy/problem.h"
#include "protocol/exit_codes.h"

namespace postern::doctor {
namespace {

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
  {"help", 'h', "", option::Kind::kFlag, 1, "", "show this text"},
  {"json", 'j', "", option::Kind::kFlag, 1, "", "print JSON instead of text"},
  {"metrics", 0, "", option::Kind::kFlag, 1, "", "print metrics in Prometheus' text format"},
  {"metrics-file", 0, "", option::Kind::kText, 1, "FILE", "write them to FILE, which changes as a whole"},
});
// clang-format on

std::string usage() {
  return "Usage: postern doctor [options]\n\nSay what this host offers to containers, what it does "
         "not, and the cure. Exits 0 when an image\ncan run.\n\nOptions:\n" +
         option::describe(kOptions, 1);
}

Outcome<option::Arguments> parse(std::span<const std::string> words) {
  constexpr std::array<const char*, 1> kNoEnvironment = {nullptr};
  POSTERN_TRY_ASSIGN(option::Arguments arguments,
                     option::parse(kOptions, 1, words, kNoEnvironment.data(), false));
  const int forms = (arguments.given("json") ? 1 : 0) + (arguments.given("metrics") ? 1 : 0) +
                    (arguments.given("metrics-file") ? 1 : 0);
  if (forms > 1 || !arguments.positional().empty()) {
    return Problem{.what = forms > 1 ? "`doctor` prints one of text, JSON and metrics"
                                     : "`doctor` does not know '" + arguments.positional()[0] + "'",
                   .exit_code = kExitUsage};
  }
  return arguments;
}

// Into a file of which a reader never sees a part.
int write_metrics(const std::string& file, const std::string& text) {
  const auto written = system::replace_file(file, text);
  if (!written) {
    message::fatal(written.error());
    return written.error().exit_code;
  }
  return 0;
}

}  // namespace

int doctor_command(std::span<const std::string> words) {
  const Outcome<option::Arguments> arguments = parse(words);
  if (!arguments) {
    message::error(arguments.error().what);
    std::fputs(usage().c_str(), stderr);
    return arguments.error().exit_code;
  }
  if (arguments->given("help")) {
    std::fputs(usage().c_str(), stdout);
    return 0;
  }
  const Facts facts = gather();
  const Report report = examine(facts);
  // A collector looks at the values: to have written them is success.
  if (arguments->given("metrics-file")) {
    return write_metrics(std::string(arguments->text("metrics-file")),
                         to_metrics(report, facts, count_image_servers()));
  }
  if (arguments->given("metrics")) {
    std::fputs(to_metrics(report, facts, count_image_servers()).c_str(), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  }
  const std::string text = arguments->given("json") ? to_json(report) : to_text(report);
  std::fputs(text.c_str(), stdout);
  return report.can_run() && std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace postern::doctor
