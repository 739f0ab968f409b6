#include "frontend/instance/command.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/option/usage.h"
#include "policy/accounts/accounts.h"
#include "protocol/exit_codes.h"

namespace postern::instance {
namespace {

using option::Kind;

constexpr option::CommandSet kList = 1;
constexpr option::CommandSet kStop = 2;
constexpr option::CommandSet kStats = 4;
constexpr option::CommandSet kAll = kList | kStop | kStats;

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
  // name, letter, environment, kind, commands, value, help
  {"all", 'a', "ALL", Kind::kFlag, kList | kStop, "", "all instances of the user on this host"},
  {"force", 'F', "FORCE", Kind::kFlag, kStop, "", "kill at once: the same as --signal KILL"},
  {"help", 'h', "", Kind::kFlag, kAll, "", "show this help"},
  {"interval", 'i', "", Kind::kText, kStats, "SECONDS", "time between two samples, 1 if not given"},
  {"json", 'j', "JSON", Kind::kFlag, kList | kStats, "", "print JSON, one sample"},
  {"logs", 'l', "LOGS", Kind::kFlag, kList, "", "show where the output of the instances goes"},
  {"no-stream", 0, "", Kind::kFlag, kStats, "", "print one sample"},
  {"signal", 's', "SIGNAL", Kind::kText, kStop, "SIGNAL", "how the instance is asked to end: a name or a number, INT if not given"},
  {"timeout", 't', "", Kind::kText, kStop, "SECONDS", "time after which it is killed, 10 if not given"},
  {"user", 'u', "USER", Kind::kText, kAll, "USER", "root only: the instances of this user"},
});

constexpr std::array kCommands = std::to_array<option::Usage>({
  {"instance list", "[options] [PATTERN]", "List the instances that run on this host.", kOptions, kList, 0, 1},
  {"instance stats", "[options] NAME", "Show what an instance uses.", kOptions, kStats, 1, 1},
  {"instance stop", "[options] PATTERN | --all", "End instances.", kOptions, kStop, 0, 1},
});
// clang-format on

Outcome<uid_t> owner_of(const option::Arguments& arguments) {
  const std::string user(arguments.text("user"));
  if (user.empty()) {
    return ::geteuid();
  }
  if (::geteuid() != 0) {
    return Problem{
        .what = "only root can look at the instances of another user (--user " + user + ")",
        .cure = "leave --user out"};
  }
  uid_t number = 0;
  const char* const end = user.data() + user.size();
  if (const auto parsed = std::from_chars(user.data(), end, number);
      parsed.ec == std::errc{} && parsed.ptr == end) {
    return number;
  }
  const auto entry = accounts::find_user(user);
  if (!entry) {
    return Problem{.what = "there is no user " + user};
  }
  return entry->uid;
}

Outcome<int> perform(option::CommandSet which, const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const uid_t owner, owner_of(arguments));
  if (which == kList) {
    return list(arguments, owner);
  }
  return which == kStop ? stop(arguments, owner) : stats(arguments, owner);
}

}  // namespace

std::span<const option::Option> command_options() {
  return kOptions;
}

int command(std::string_view verb, std::span<const std::string> words) {
  const auto usage = std::find_if(kCommands.begin(), kCommands.end(), [&](const auto& one) {
    return one.name.substr(one.name.find(' ') + 1) == verb;
  });
  const auto arguments = option::parse_command(*usage, words);
  if (!arguments) {
    return arguments.error();
  }
  const Outcome<int> status = perform(usage->commands, *arguments);
  if (status) {
    return *status;
  }
  message::fatal(status.error());
  return status.error().exit_code;
}

}  // namespace postern::instance
