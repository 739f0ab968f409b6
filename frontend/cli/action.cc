// exec, run, shell and test; and what they share with instances.
#include "frontend/cli/action.h"

#include <algorithm>
#include <array>
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
#include "frontend/cli/describe.h"
#include "frontend/cli/ecl.h"
#include "frontend/cli/site.h"
#include "frontend/instance/join.h"
#include "frontend/instance/name.h"
#include "frontend/message/message.h"
#include "frontend/plan/fetch.h"
#include "frontend/plan/make_plan.h"
#include "frontend/plan/record.h"
#include "frontend/plan/unlock.h"
#include "frontend/start/audit.h"
#include "frontend/start/cgroup/group.h"
#include "frontend/start/cgroup/resources.h"
#include "frontend/start/gocryptfs.h"
#include "frontend/start/wait.h"
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
                      input.image.root->served == plan::Served::kSquashfs &&
                      !action.user_namespace && !action.fakeroot &&
                      suid::reason_against(site).empty();
  if (!wanted) {
    return std::nullopt;
  }
  auto accounts = suid::ImageAccounts::begin(*input.image.root);
  return accounts ? std::optional(*std::move(accounts)) : std::nullopt;
}

std::string host_path() {
  const char* const path = ::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): one thread
  return path != nullptr ? path : "";
}

Outcome<plan::PayloadEnvironment> environment_of(plan::Action& action, const plan::Caller& caller) {
  plan::EnvironmentWish wish{.clean = action.clean_environment,
                             .not_imported = std::move(action.not_imported),
                             .set = std::move(action.set)};
  for (const std::string& file : action.files) {
    const std::string path = file.starts_with('/') ? file : caller.directory + '/' + file;
    POSTERN_TRY_ASSIGN(std::vector<std::string> variables,
                       plan::evaluate_environment_file(path, environ));
    std::move(variables.begin(), variables.end(), std::back_inserter(wish.from_files));
  }
  plan::PayloadEnvironment environment = plan::payload_environment(wish, environ);
  for (const std::string& warning : environment.warnings) {
    message::warning(warning);
  }
  return environment;
}

// The profile that the site's list gives to this image narrows what was asked for.
Outcome<std::optional<ecl::Profile>> take_profile(const config::SiteConfig& site,
                                                  plan::Action& action,
                                                  plan::PlanInput& input) {
  const bool suid =
      !action.user_namespace && !action.fakeroot && suid::reason_against(site).empty();
  const int image = input.image.root ? input.image.root->image.get() : -1;
  POSTERN_TRY_ASSIGN(std::optional<ecl::Profile> profile,
                     profile_for(input.image.path, image, suid));
  if (!profile) {
    return profile;
  }
  std::vector<std::string> warnings;
  apply_profile(*profile, input.caller.directory, action, warnings);
  for (const std::string& warning : warnings) {
    message::warning(warning);
  }
  input.site = site_of(ecl::narrowed(site, *profile));
  return profile;
}

void keep_directories_out(std::vector<int>& inherited) {
  for (const int fd : system::take_out_directories(inherited)) {
    message::warning("descriptor " + std::to_string(fd) +
                     " is a directory of the host: the program does not get it");
  }
}

Outcome<plan::PlanInput> gather(plan::Action action,
                                const config::SiteConfig& site,
                                std::vector<int> inherited,
                                std::optional<suid::ImageAccounts>& accounts,
                                std::optional<ecl::Profile>& profile) {
  plan::PlanInput input;
  input.inherited = std::move(inherited);
  // The secret's descriptor is for the program that reads it.
  std::erase(input.inherited, action.passphrase_fd.value_or(-1));
  if (action.contain) {
    keep_directories_out(input.inherited);
  }
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
  POSTERN_TRY_ASSIGN(profile, take_profile(site, action, input));
  if (input.image.encrypted) {
    UniqueFd gocryptfs;
    if (input.image.root->gocryptfs) {
      POSTERN_TRY_ASSIGN(gocryptfs, start::read_gocryptfs_configuration(*input.image.root));
    }
    POSTERN_TRY(
        plan::unlock(*input.image.root, {.ask_passphrase = action.ask_passphrase,
                                         .pem_path = action.pem_path,
                                         .passphrase_file = action.passphrase_file,
                                         .passphrase_fd = action.passphrase_fd,
                                         .key_command = action.key_command,
                                         .gocryptfs = gocryptfs.valid() ? &gocryptfs : nullptr}));
  }
  accounts = begin_accounts(input, action, site);

  POSTERN_TRY_ASSIGN(input.environment, environment_of(action, input.caller));
  input.host_path = host_path();
  input.settings = std::filesystem::path(config_path()).parent_path().string();
  input.init_program = system::libexec_program("postern-init");
  input.prompt = is_called_apptainer() ? "Apptainer> " : "Postern> ";
  input.message_level = static_cast<std::int32_t>(message::threshold());
  input.action = std::move(action);
  return input;
}

// The image, and every other image that is laid over it or bound into it.
Outcome<> check_images(const plan::LaunchPlan& plan) {
  std::vector<std::string> seen;
  bool root_is_boxed = false;
  for (const plan::ImageServer& server : plan.servers) {
    // What a program of the user's serves is data, as what is bound from a directory.
    const bool is_image = server.served != plan::Served::kProgram;
    if (is_image && std::find(seen.begin(), seen.end(), server.path) == seen.end()) {
      POSTERN_TRY_ASSIGN(const bool boxed,
                         check_ecl(server.path, server.image.get(), server.verity));
      if (boxed && !root_is_boxed && server.path != plan.image_name) {
        return Problem{.what = server.path +
                               ": the execution control list admits it as a root of "
                               "its own only, with a profile",
                       .cure = "leave it out, or have it signed"};
      }
      root_is_boxed = root_is_boxed || boxed;
      seen.push_back(server.path);
    }
  }
  const bool is_checked = std::find(seen.begin(), seen.end(), plan.image_name) != seen.end();
  if (!is_checked) {
    POSTERN_TRY(check_ecl(plan.image_name, -1, {}));
  }
  return Ok{};
}

// The payload's group, where a limit is asked for.
Outcome<std::optional<start::cgroup::Group>> limit(
    const std::vector<start::cgroup::Setting>& settings, plan::LaunchPlan& plan) {
  if (settings.empty()) {
    return std::optional<start::cgroup::Group>();
  }
  POSTERN_TRY_ASSIGN(start::cgroup::Group group, start::cgroup::Group::make(settings));
  POSTERN_TRY_ASSIGN(plan.control_group, group.open_procs());
  return std::optional(std::move(group));
}

void report(const start::cgroup::Group& group) {
  if (const unsigned long count = group.killed_for_memory(); count > 0) {
    message::warning("the kernel ended " + std::to_string(count) +
                     (count == 1 ? " process" : " processes") +
                     " of the container, because the limit of its memory was reached");
  }
}

// Through the setuid helper where there is one and nothing speaks against it.
Outcome<int> launch(plan::LaunchPlan plan,
                    bool no_suid,
                    const config::SiteConfig& site,
                    const std::optional<ecl::Profile>& profile,
                    std::optional<suid::ImageAccounts> accounts,
                    instance::Monitor* monitor) {
  const std::string reason = no_suid ? "--userns was given" : suid::reason_against(plan, site);
  if (reason.empty()) {
    message::verbose("starting in setuid mode");
    leave_out_ungranted(plan.identity, plan.request);
    if (monitor != nullptr) {
      POSTERN_TRY(monitor->prepare(plan));
    }
    return suid::launch(std::move(plan), site, config_path(), std::move(accounts), monitor);
  }
  // Root's containers have one too, and root does not need the site's leave.
  if (!site.allow_user_namespace && ::geteuid() != 0) {
    return Problem{.what =
                       "the site's configuration allows no user namespaces "
                       "(allow.user-namespace), and this start needs one: " +
                       reason,
                   .cure = "leave out what needs it, or ask the site's administrator"};
  }
  const std::string words = "starting in user-namespace mode, not setuid mode: " + reason;
  if (!no_suid && suid::is_offered(site)) {
    message::info(words + "; the site's limits and lists are advisory there");
  } else {
    message::verbose(words);
  }
  accounts.reset();
  Outcome<> admitted = check_images(plan);
  if (admitted && profile) {
    admitted = check_profile(*profile, plan, site);
  }
  if (site.audit_user_namespaces) {
    start::log_start(plan, !admitted);
  }
  POSTERN_TRY(std::move(admitted));
  if (monitor != nullptr) {
    POSTERN_TRY(monitor->prepare(plan));
  }
  return userns::launch(std::move(plan), monitor);
}

}  // namespace

Outcome<int> start(plan::Action action, std::vector<int> inherited, instance::Monitor* monitor) {
  POSTERN_TRY_ASSIGN(const config::SiteConfig site, config::load_site_config(config_path()));
  std::vector<std::string> warnings;
  POSTERN_TRY_ASSIGN(const auto limits, start::cgroup::read_settings(action.resources, warnings));
  const bool no_suid = action.user_namespace;
  if (!no_suid) {
    POSTERN_TRY(suid::require_settings(config_path()));
  }
  std::optional<suid::ImageAccounts> accounts;
  std::optional<ecl::Profile> profile;
  POSTERN_TRY_ASSIGN(plan::PlanInput input,
                     gather(std::move(action), site, std::move(inherited), accounts, profile));
  describe_input(input, site);
  auto plan = plan::make_plan(std::move(input), warnings);
  for (const std::string& warning : warnings) {
    message::warning(warning);
  }
  if (!plan) {
    return std::move(plan).error();
  }
  describe_plan(*plan);
  POSTERN_TRY_ASSIGN(std::optional<start::cgroup::Group> group, limit(limits, *plan));
  const Outcome<int> status =
      launch(*std::move(plan), no_suid, site, profile, std::move(accounts), monitor);
  if (group) {
    report(*group);
    group->remove();  // finish_like() may not return
  }
  return status ? Outcome<int>(start::finish_like(*status)) : status;
}

namespace {

// What an option of a start would change is decided in an instance that runs.
void report_ignored(const option::Arguments& arguments) {
  static constexpr std::array<std::string_view, 15> kMeaningful = {
      "app",      "cleanenv", "cwd",   "env",    "env-file", "help",   "no-env",       "no-eval",
      "no-umask", "pwd",      "shell", "userns", "no-share", "tmpdir", "disable-cache"};
  for (const option::Option& option : action_options()) {
    const bool is_meaningful =
        std::find(kMeaningful.begin(), kMeaningful.end(), option.name) != kMeaningful.end();
    if (!is_meaningful && arguments.on_command_line(option.name)) {
      message::warning("--" + std::string(option.name) +
                       " changes nothing in an instance that runs: it is ignored");
    }
  }
}

Outcome<int> join(const std::string& name, plan::Action action, std::vector<int> inherited) {
  const plan::Caller caller = plan::read_caller();
  POSTERN_TRY_ASSIGN(plan::PayloadEnvironment environment, environment_of(action, caller));
  init::LaunchRecord record;
  record.fixed.push_back("USER_PATH=" + host_path());
  plan::add_action_variables(record, action);
  record.action = action.what;
  record.argv = std::move(action.arguments);
  record.environment = std::move(environment.imported);
  record.forwarded = std::move(environment.forwarded);
  record.prepend_path = std::move(environment.prepend_path);
  record.append_path = std::move(environment.append_path);
  record.cwd_required = !action.cwd.empty();
  record.cwd = action.cwd.empty() ? caller.directory : action.cwd;
  record.app = action.app;
  record.shell = action.shell;
  record.umask = action.no_umask ? 022 : caller.umask;
  record.no_eval = action.no_eval;
  record.ignored_signals = caller.ignored_signals;
  record.blocked_signals = caller.blocked_signals;
  record.message_level = static_cast<std::int32_t>(message::threshold());
  keep_directories_out(inherited);  // the instance may be one of --contain
  return instance::join(name, std::move(record), std::move(inherited));
}

}  // namespace

Result<option::Arguments, int> parse_action(const Command& command,
                                            std::span<const std::string> words) {
  auto arguments = option::parse(action_options(), command.options, words, environ, true);
  if (!arguments) {
    return report(command, arguments.error());
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
  return *std::move(arguments);
}

int report(const Command& command, const Problem& problem) {
  if (problem.exit_code == kExitUsage) {
    return report_usage_error(command, problem);
  }
  message::fatal(problem);
  return problem.exit_code;
}

namespace {

Outcome<int> perform(init::Action what,
                     const option::Arguments& arguments,
                     std::vector<int> inherited) {
  POSTERN_TRY_ASSIGN(plan::Action action, to_action(arguments));
  action.what = what;
  POSTERN_TRY(take_operands(arguments.positional(), action));
  if (const auto name = instance::name_in(action.image)) {
    report_ignored(arguments);
    return join(*name, std::move(action), std::move(inherited));
  }
  return start(std::move(action), std::move(inherited), nullptr);
}

int act(init::Action what, std::string_view name, std::span<const std::string> words) {
  // ORDER: before anything is opened.
  std::vector<int> inherited = system::take_inherited_descriptors();
  const Command& command = *find_command(name);
  const auto arguments = parse_action(command, words);
  if (!arguments) {
    return arguments.error();
  }
  const Outcome<int> status = perform(what, *arguments, std::move(inherited));
  return status ? *status : report(command, status.error());
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
