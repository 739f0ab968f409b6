#include "frontend/cli/ecl.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "frontend/cli/command.h"
#include "frontend/message/message.h"
#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "frontend/system/subids.h"
#include "policy/admit/admit.h"
#include "policy/ecl/ecl.h"
#include "policy/judge/decide.h"
#include "policy/judge/gather.h"
#include "policy/text/hex.h"
#include "protocol/limits.h"

namespace postern::cli {
namespace {

constexpr std::string_view kAllow = "allow: ";
constexpr std::string_view kRefuse = "refuse: ";

// Where the image's descriptor is in `postern ecl check`, which opens it again from there: a name
// could be another file's by now.
constexpr int kImageFd = 10;

// What `postern ecl check` prints; nothing if it could not be started.
std::string ask(std::string path, int image) {
  system::Command command{.program = system::libexec_program("postern-keys")};
  if (image >= 0) {
    command.passed = {{image, kImageFd}};
    path = "/proc/self/fd/" + std::to_string(kImageFd);
  }
  command.words = {"postern", "ecl", "check", "--", std::move(path)};
  const auto finished = system::run_and_read(command, kMaxFileBytes);
  return finished ? finished->output : std::string{};
}

// What follows `begin` on its line; empty where there is no such line.
std::string line_of(const std::string& answer, std::string_view begin) {
  const std::size_t at = answer.find(begin);
  return at == std::string::npos
             ? std::string()
             : answer.substr(at + begin.size(),
                             answer.find('\n', at + begin.size()) - at - begin.size());
}

}  // namespace

namespace {

// The list, if it is active.
Outcome<std::optional<ecl::EclConfig>> active_list() {
  const std::string& configuration = config_path();
  const std::string file = configuration.substr(0, configuration.rfind('/') + 1) + "ecl.toml";
  const auto text = system::read_small_file(file);
  if (!text) {
    return std::optional<ecl::EclConfig>();
  }
  // As in setuid mode, but that an installation of the user's own may have the user's own list, and
  // that root of the host has no id in a container that this start is nested in.
  struct stat status{};
  if (::stat(file.c_str(), &status) != 0) {
    return system_problem("looking at " + file, errno);
  }
  const bool owned =
      status.st_uid == 0 || status.st_uid == ::geteuid() || system::is_unmapped(status.st_uid);
  if (!owned || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return Problem{.what = file + " can be written by others than root, so that it is not followed",
                   .cure = "have it owned by root, and not writable by group or others"};
  }
  POSTERN_TRY_ASSIGN(ecl::EclConfig list, ecl::parse_ecl(*text, file));
  return list.activated ? std::optional(std::move(list)) : std::nullopt;
}

const ecl::Profile* find_profile(const ecl::EclConfig& list, const std::string& name) {
  for (const ecl::Profile& profile : list.profiles) {
    if (profile.name == name) {
      return &profile;
    }
  }
  return nullptr;
}

// Fails closed, like the judge: no answer is no admission.
Problem not_admitted(const std::string& path, const std::string& answer) {
  const std::string why = answer.starts_with(kRefuse)
                              ? answer.substr(kRefuse.size(), answer.find('\n') - kRefuse.size())
                              : std::string("its signatures could not be checked");
  return Problem{.what = "while checking container image with ECL: " + path + ": " + why,
                 .cure = "`postern ecl check --explain " + path + "` shows the rule"};
}

}  // namespace

Outcome<std::optional<ecl::Profile>> profile_for(const std::string& path, int image, bool suid) {
  POSTERN_TRY_ASSIGN(const std::optional<ecl::EclConfig> list, active_list());
  if (!list || list->profiles.empty()) {
    return std::optional<ecl::Profile>();
  }
  const std::string answer = ask(path, image);
  if (!answer.starts_with(kAllow)) {
    return not_admitted(path, answer);
  }
  const ecl::Profile* const profile =
      find_profile(*list, line_of(answer, suid ? "\nsetuid profile: " : "\nprofile: "));
  return profile == nullptr ? std::nullopt : std::optional(*profile);
}

void apply_profile(const ecl::Profile& profile,
                   const std::string& directory,
                   plan::Action& action,
                   std::vector<std::string>& warnings) {
  const std::string because = " (profile '" + profile.name + "' of ecl.toml)";
  message::verbose("the image runs with profile '" + profile.name + "': " + ecl::describe(profile));
  action.pid = action.pid || (profile.require & CLONE_NEWPID) != 0;
  action.ipc = action.ipc || (profile.require & CLONE_NEWIPC) != 0;
  action.uts = action.uts || (profile.require & CLONE_NEWUTS) != 0;
  if ((profile.require & CLONE_NEWNET) != 0) {
    if (action.network == plan::Network::kCarried) {
      warnings.push_back("this image has no network" + because);
    }
    action.network = plan::Network::kNone;
    action.network_name.clear();
    action.network_arguments.clear();
  }
  const auto denies = [&](ecl::Denied what) { return (profile.deny & what) != 0; };
  const bool devices = action.nv || action.rocm || action.intel_hpu || !action.devices.empty();
  if (denies(ecl::kDenyDevices) && devices) {
    warnings.push_back("devices are not given to this image" + because);
    action.nv = action.rocm = action.intel_hpu = false;
    action.devices.clear();
  }
  if (denies(ecl::kDenyCapabilities) && action.add_capabilities != 0) {
    warnings.push_back("capabilities are not given to this image" + because);
    action.add_capabilities = 0;
  }
  if (!profile.binds.empty() && !admit::is_below_any(directory, profile.binds)) {
    action.no_mount.emplace_back("cwd");
  }
}

Outcome<> check_profile(const ecl::Profile& profile,
                        const plan::LaunchPlan& plan,
                        const config::SiteConfig& site) {
  const config::MountTable mounts = judge::MountTable::read();
  judge::Facts facts;
  facts.profile = profile;
  facts.site_binds = judge::site_binds(site, plan.record.home);
  facts.sources.resize(plan.sources.size());
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    if (plan.sources[i].kind == plan::Source::Kind::kPath) {
      const UniqueFd source(::open(plan.sources[i].path.c_str(), O_PATH | O_CLOEXEC));
      if (source.valid()) {
        facts.sources[i] = judge::source_facts(source.get(), mounts);
      }
    }
  }
  const auto allowed = judge::check_profile(facts, plan.request, site);
  if (allowed) {
    return Ok{};
  }
  const bool names_mount = allowed.error().item < plan.request.mounts.size() &&
                           !plan.request.mounts.empty() && allowed.error().item != 0;
  return Problem{
      .what = "profile '" + profile.name + "' of ecl.toml does not allow " +
              (names_mount ? "the mount at " + plan.request.mounts[allowed.error().item].target
                           : "this start") +
              ": it " + ecl::describe(profile),
      .cure = "leave out what it denies; `postern ecl check --explain " + plan.image_name +
              "` shows the profile"};
}

Outcome<bool> check_ecl(const std::string& path,
                        int image,
                        const std::optional<VerityGeometry>& seal) {
  POSTERN_TRY_ASSIGN(const std::optional<ecl::EclConfig> list, active_list());
  if (!list) {
    return false;
  }
  const std::string answer = ask(path, image);
  if (!answer.starts_with(kAllow)) {
    return not_admitted(path, answer);
  }
  if (const std::string admitted = line_of(answer, "\nseal: ");
      !admitted.empty() && (!seal || text::to_hex(seal->root_hash) != admitted)) {
    return Problem{.what = path + ": the file changed while its signatures were checked",
                   .cure = "try again; if it happens again, ask who writes to the file"};
  }
  message::verbose(list->file + " admits " + path +
                   "; in user-namespace mode this is advisory: a user can bring another program");
  const ecl::Profile* const profile = find_profile(*list, line_of(answer, "\nprofile: "));
  return profile != nullptr && profile->is_for_unsigned;
}

}  // namespace postern::cli
