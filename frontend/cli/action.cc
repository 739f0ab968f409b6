// exec, run, shell and test.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include <unistd.h>

#include "frontend/cli/action_options.h"
#include "frontend/cli/command.h"
#include "frontend/cli/ecl.h"
#include "frontend/cli/site.h"
#include "frontend/message/message.h"
#include "frontend/plan/fetch.h"
#include "frontend/plan/make_plan.h"
#include "frontend/plan/unlock.h"
#include "frontend/suid/accounts.h"
#include "frontend/suid/launch.h"
#include "frontend/system/inherited.h"
#include "frontend/system/libexec.h"
#include "frontend/userns/launch.h"
#include "policy/config/site.h"
#include "protocol/exit_codes.h"

namespace postern::cli {
namespace {

// The words behind the options: image, then command or arguments.
Outcome<> take_operands(const std::vector<std::string>& operands, plan::Action& action) {
  const std::size_t needed = action.what == init::Action::kExec ? 2 : 1;
  if (operands.size() < needed) {
    return Problem{.what = needed == 2 ? "an image and a command are needed" : "an image is needed",
                   .exit_code = kExitUsage};
  }
  action.image = operands[0];
  action.arguments.assign(operands.begin() + 1, operands.end());
  if (action.what == init::Action::kShell && !action.arguments.empty()) {
    message::warning("shell takes no arguments beside the image: they are ignored");
    action.arguments.clear();
  }
  return Ok{};
}

// Suid mode generates account files before the image is mounted. The image's own are read beside
// the planning; what cannot be begun here is begun, and reported, by suid::launch().
std::optional<suid::ImageAccounts> begin_accounts(const plan::PlanInput& input,
                                                  const plan::Action& action,
                                                  const config::SiteConfig& site) {
  const bool wanted = (input.site.passwd || input.site.group) && input.image.root &&
                      !action.user_namespace && !action.fakeroot &&
                      suid::reason_against(site).empty();
  if (!wanted) {
    return std::nullopt;
  }
  auto accounts = suid::ImageAccounts::begin(*input.image.root);
  return accounts ? std::optional(*std::move(accounts)) : std::nullopt;
}

Outcome<plan::PlanInput> gather(plan::Action action,
                                const config::SiteConfig& site,
                                std::vector<int> inherited,
                                std::optional<suid::ImageAccounts>& accounts) {
  plan::PlanInput input;
  input.inherited = std::move(inherited);
  // The secret's descriptor is for the program that reads it.
  std::erase(input.inherited, action.passphrase_fd.value_or(-1));
  input.caller = plan::read_caller();
  if (input.caller.directory.empty()) {
    message::warning(
        "the current directory does not exist any more: starting in the home directory");
  }
  input.site = site_of(site);
  action.nv = action.nv || (site.nv_always && !action.no_nv);
  action.rocm = action.rocm || (site.rocm_always && !action.no_rocm);
  plan::FetchedImage fetched{.path = action.image};
  if (plan::needs_fetching(action.image)) {
    POSTERN_TRY_ASSIGN(fetched, plan::fetch_image(action));
    action.image = fetched.path;
  }
  auto image = plan::open_image(action.image, input.caller.directory);
  if (fetched.temporary) {
    ::unlink(fetched.path.c_str());
  }
  POSTERN_TRY_ASSIGN(input.image, std::move(image));
  POSTERN_TRY(check_site(site, input.image));
  if (input.image.encrypted) {
    POSTERN_TRY(plan::unlock(*input.image.root, {.ask_passphrase = action.ask_passphrase,
                                                 .pem_path = action.pem_path,
                                                 .passphrase_file = action.passphrase_file,
                                                 .passphrase_fd = action.passphrase_fd,
                                                 .key_command = action.key_command}));
  }
  accounts = begin_accounts(input, action, site);

  plan::EnvironmentWish wish{.clean = action.clean_environment,
                             .not_imported = std::move(action.not_imported),
                             .set = std::move(action.set)};
  for (const std::string& file : action.files) {
    const std::string path = file.starts_with('/') ? file : input.caller.directory + '/' + file;
    POSTERN_TRY_ASSIGN(std::vector<std::string> variables,
                       plan::evaluate_environment_file(path, environ));
    std::move(variables.begin(), variables.end(), std::back_inserter(wish.from_files));
  }
  input.environment = plan::payload_environment(wish, environ);
  const char* path = ::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): one thread
  input.host_path = path != nullptr ? path : "";
  input.settings = std::filesystem::path(config_path()).parent_path().string();
  input.init_program = system::libexec_program("postern-init");
  input.message_level = static_cast<std::int32_t>(message::threshold());
  input.action = std::move(action);
  return input;
}

// The image, and every other image that is laid over it or bound into it.
Outcome<> check_images(const plan::LaunchPlan& plan) {
  std::vector<std::string> seen;
  for (const plan::ImageServer& server : plan.servers) {
    if (std::find(seen.begin(), seen.end(), server.path) == seen.end()) {
      POSTERN_TRY(check_ecl(server.path, server.image.get(), server.verity));
      seen.push_back(server.path);
    }
  }
  const bool is_checked = std::find(seen.begin(), seen.end(), plan.image_name) != seen.end();
  return is_checked ? Outcome<>(Ok{}) : check_ecl(plan.image_name, -1, {});
}

// Through the setuid helper where there is one and nothing speaks against it.
Outcome<int> launch(plan::LaunchPlan plan,
                    bool no_suid,
                    const config::SiteConfig& site,
                    std::optional<suid::ImageAccounts> accounts) {
  const std::string reason = no_suid ? "--userns was given" : suid::reason_against(plan, site);
  if (reason.empty()) {
    message::verbose("starting in setuid mode");
    return suid::launch(std::move(plan), site, config_path(), std::move(accounts));
  }
  const std::string words = "starting in user-namespace mode, not setuid mode: " + reason;
  if (!no_suid && suid::is_offered(site)) {
    message::info(words + "; the site's limits and lists are advisory there");
  } else {
    message::verbose(words);
  }
  accounts.reset();
  POSTERN_TRY(check_images(plan));
  return userns::launch(std::move(plan));
}

Outcome<int> start(plan::Action action, std::vector<int> inherited) {
  POSTERN_TRY_ASSIGN(const config::SiteConfig site, config::load_site_config(config_path()));
  const bool no_suid = action.user_namespace;
  if (!no_suid) {
    POSTERN_TRY(suid::require_settings(config_path()));
  }
  std::optional<suid::ImageAccounts> accounts;
  POSTERN_TRY_ASSIGN(plan::PlanInput input,
                     gather(std::move(action), site, std::move(inherited), accounts));
  for (const std::string& warning : input.environment.warnings) {
    message::warning(warning);
  }
  std::vector<std::string> warnings;
  auto plan = plan::make_plan(std::move(input), warnings);
  for (const std::string& warning : warnings) {
    message::warning(warning);
  }
  if (!plan) {
    return std::move(plan).error();
  }
  return launch(*std::move(plan), no_suid, site, std::move(accounts));
}

int act(init::Action what, std::string_view name, std::span<const std::string> words) {
  // ORDER: before anything is opened.
  std::vector<int> inherited = system::take_inherited_descriptors();
  const Command& command = *find_command(name);
  auto arguments = option::parse(action_options(), command.options, words, environ, true);
  if (!arguments) {
    if (arguments.error().exit_code == kExitUsage) {
      return report_usage_error(command, arguments.error());
    }
    message::fatal(arguments.error());
    return arguments.error().exit_code;
  }
  for (const std::string& warning : arguments->warnings()) {
    message::warning(warning);
  }
  for (const std::string& note : arguments->notes()) {
    message::verbose(note);
  }
  if (arguments->given("help")) {
    std::fputs(help(command).c_str(), stdout);
    return 0;
  }
  auto action = to_action(*arguments);
  if (action) {
    action->what = what;
    if (auto taken = take_operands(arguments->positional(), *action); !taken) {
      return report_usage_error(command, taken.error());
    }
  } else if (action.error().exit_code == kExitUsage) {
    return report_usage_error(command, action.error());
  }
  auto status = action ? start(*std::move(action), std::move(inherited))
                       : Outcome<int>(std::move(action).error());
  if (!status) {
    message::fatal(status.error());
    return status.error().exit_code;
  }
  return *status;
}

}  // namespace

int exec_command(std::span<const std::string> words) {
  return act(init::Action::kExec, "exec", words);
}

int run_command(std::span<const std::string> words) {
  return act(init::Action::kRun, "run", words);
}

int shell_command(std::span<const std::string> words) {
  return act(init::Action::kShell, "shell", words);
}

int test_command(std::span<const std::string> words) {
  return act(init::Action::kTest, "test", words);
}

}  // namespace postern::cli
