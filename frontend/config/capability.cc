// postern capability
#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

#include "frontend/config/commands.h"
#include "frontend/message/message.h"
#include "frontend/option/commands.h"
#include "frontend/option/option.h"
#include "frontend/system/replace_file.h"
#include "policy/accounts/accounts.h"
#include "policy/config/capabilities.h"
#include "policy/config/read_file.h"
#include "protocol/exit_codes.h"

namespace postern::config {
namespace {

using Words = std::span<const std::string>;

constexpr std::array kOptions = std::to_array<option::Option>({
    {"user", 'u', "CAP_USER", option::Kind::kText, 1, "NAME",
     "the user to grant to, or to take from"},
    {"group", 'g', "CAP_GROUP", option::Kind::kText, 1, "NAME",
     "the group to grant to, or to take from"},
    {"help", 'h', "", option::Kind::kFlag, 1, "", "show help"},
});

constexpr const char* kUsage =
    "Usage:\n"
    "  postern capability add [--user NAME] [--group NAME] CAPABILITY[,CAPABILITY...]\n"
    "  postern capability drop [--user NAME] [--group NAME] CAPABILITY[,CAPABILITY...]\n"
    "  postern capability list [USER-OR-GROUP]\n"
    "  postern capability avail [CAPABILITY[,CAPABILITY...]]\n";

Outcome<CapabilityConfig> load(const std::string& file) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, read_file(file));
  return text ? parse_capability_config(*text, file)
              : Outcome<CapabilityConfig>(CapabilityConfig());
}

Grant& grant_of(std::vector<Grant>& grants, std::string_view name) {
  const auto found = std::find_if(grants.begin(), grants.end(),
                                  [&](const Grant& grant) { return grant.name == name; });
  return found != grants.end() ? *found : grants.emplace_back(Grant{.name = std::string(name)});
}

bool user_exists(const std::string& name) {
  return accounts::find_user(name).has_value();
}

bool group_exists(const std::string& name) {
  return accounts::find_group(name).has_value();
}

void warn_of_root(std::string_view what, std::string_view name) {
  message::warning(std::string(what) + " " + std::string(name) +
                   " will likely be able to become root on the host with these capabilities");
}

Outcome<int> change(bool add, const option::Arguments& arguments, const std::string& file) {
  if (::geteuid() != 0) {
    return Problem{.what = "only root may change capability grants", .cure = "run this as root"};
  }
  if (arguments.positional().size() != 1) {
    return Problem{.what = "one comma-separated list of capabilities is needed",
                   .exit_code = kExitUsage};
  }
  const std::string user(arguments.text("user"));
  const std::string group(arguments.text("group"));
  if (user.empty() && group.empty()) {
    return Problem{.what = "a user or a group is needed",
                   .cure = "give --user NAME or --group NAME"};
  }
  if (!user.empty() && !user_exists(user)) {
    return Problem{.what = "there is no user \"" + user + "\" on this host"};
  }
  if (!group.empty() && !group_exists(group)) {
    return Problem{.what = "there is no group \"" + group + "\" on this host"};
  }
  POSTERN_TRY_ASSIGN(const std::uint64_t bits, parse_capabilities(arguments.positional().front()));
  POSTERN_TRY_ASSIGN(CapabilityConfig config, load(file));
  const auto apply = [&](std::vector<Grant>& grants, const std::string& name,
                         std::string_view what) {
    if (name.empty()) {
      return;
    }
    Grant& grant = grant_of(grants, name);
    grant.bits = add ? grant.bits | bits : grant.bits & ~bits;
    if (add) {
      warn_of_root(what, name);
    }
  };
  apply(config.users, user, "user");
  apply(config.groups, group, "members of group");
  POSTERN_TRY(system::replace_file(file, capability_config_text(config)));
  return 0;
}

std::string joined(std::uint64_t bits) {
  std::string text;
  for (const std::string& name : capability_names(bits)) {
    text += text.empty() ? "" : ",";
    text += name;
  }
  return text;
}

bool print_grants(const std::vector<Grant>& grants, const char* kind, const std::string& wanted) {
  bool printed = false;
  for (const Grant& grant : grants) {
    if (grant.bits != 0 && (wanted.empty() || wanted == grant.name)) {
      std::printf("%s [%s]: %s\n", grant.name.c_str(), kind, joined(grant.bits).c_str());
      printed = true;
    }
  }
  return printed;
}

Outcome<int> list(const option::Arguments& arguments, const std::string& file) {
  if (arguments.positional().size() > 1) {
    return Problem{.what = "list takes one user or group at most", .exit_code = kExitUsage};
  }
  const std::string wanted = arguments.positional().empty() ? "" : arguments.positional().front();
  POSTERN_TRY_ASSIGN(const CapabilityConfig config, load(file));
  const bool users = print_grants(config.users, "user", wanted);
  const bool groups = print_grants(config.groups, "group", wanted);
  if (!users && !groups) {
    return Problem{.what = wanted.empty()
                               ? "no capability is granted to any user or group"
                               : "no capability is granted to user or group \"" + wanted + "\""};
  }
  return 0;
}

Outcome<int> avail(const option::Arguments& arguments) {
  std::uint64_t bits = ~std::uint64_t{0};
  if (!arguments.positional().empty()) {
    bits = 0;
    for (const std::string& list : arguments.positional()) {
      POSTERN_TRY_ASSIGN(const std::uint64_t more, parse_capabilities(list));
      bits |= more;
    }
  }
  for (const Capability& capability : capabilities()) {
    if ((bits >> capability.bit & 1) != 0) {
      std::printf("%.*s\n    %.*s\n\n", static_cast<int>(capability.name.size()),
                  capability.name.data(), static_cast<int>(capability.meaning.size()),
                  capability.meaning.data());
    }
  }
  return 0;
}

Outcome<int> dispatch(const std::string& verb, Words words, const std::string& file) {
  POSTERN_TRY_ASSIGN(const option::Arguments arguments,
                     option::parse(kOptions, 1, words, environ, false));
  if (arguments.given("help")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  if (verb == "add" || verb == "drop") {
    return change(verb == "add", arguments, file);
  }
  if (verb == "list") {
    return list(arguments, file);
  }
  if (verb == "avail") {
    return avail(arguments);
  }
  return Problem{.what = "there is no command \"capability " + verb + "\"",
                 .exit_code = kExitUsage};
}

}  // namespace

int capability_command(std::span<const std::string> words, const std::string& site_file) {
  if (words.empty() || words.front() == "--help" || words.front() == "-h") {
    std::fputs(kUsage, words.empty() ? stderr : stdout);
    return words.empty() ? kExitUsage : 0;
  }
  const std::string file =
      (std::filesystem::path(site_file).parent_path() / "capability.toml").string();
  return option::exit_status(dispatch(words.front(), words.subspan(1), file), kUsage);
}

}  // namespace postern::config
