#include <algorithm>
#include <array>

#include <fcntl.h>

#include "frontend/plan/fakeroot.h"
#include "frontend/plan/planner.h"
#include "frontend/plan/seccomp_profile.h"

namespace postern::plan {

void Planner::skeleton() {
  // With ranges of subordinate ids the caller is root of the namespace, but no owner of a foreign
  // tree is mapped either. A writable root has no layers.
  const UniqueFd root(plan_.request.root == RootKind::kDirectory && !action_.writable
                          ? ::open(plan_.sources[0].path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)
                          : -1);
  if (root.valid()) {
    const Identity& caller = input_.caller.identity;
    plan_.skeleton = missing_mount_points(root.get(), caller.uid, caller.gid, plan_.request.mounts);
  }
}

// A hint for the image's server, which may be wrong.
std::string Planner::first_program() const {
  switch (action_.what) {
    case init::Action::kExec:
      return action_.arguments.empty() ? std::string{} : action_.arguments[0];
    case init::Action::kShell:
      return action_.shell.empty() ? "/bin/bash" : action_.shell;
    case init::Action::kRun:
    case init::Action::kTest:
    case init::Action::kStart:
      break;
  }
  return "/bin/sh";
}

void Planner::fixed_environment(init::LaunchRecord& record) {
  const auto set = [&](const std::string& name, const std::string& value) {
    record.fixed.push_back(name + '=' + value);
  };
  const auto set_all = [&](const std::string& name, const std::string& value) {
    for (const char* prefix : {"POSTERN_", "APPTAINER_", "SINGULARITY_"}) {
      set(prefix + name, value);
    }
  };
  static constexpr std::array kCommands = {"", "exec", "run", "shell", "test", "start"};
  set("HOME", home_);
  set("USER_PATH", input_.host_path);
  const bool has_prompt =
      std::any_of(record.forwarded.begin(), record.forwarded.end(),
                  [](const std::string& one) { return one.starts_with("PS1="); });
  if (!has_prompt) {
    set("PS1", "Postern> ");
  }
  set_all("CONTAINER", input_.image.path);
  set_all("NAME", input_.image.path.substr(input_.image.path.rfind('/') + 1));
  set_all("COMMAND", kCommands[static_cast<std::size_t>(action_.what)]);
  set_all("ENVIRONMENT", "/.singularity.d/env/91-environment.sh");
  std::string destinations;
  for (const std::string& one : destinations_) {
    destinations += (destinations.empty() ? "" : ",");
    for (const char c : one) {
      // A nested start reads this list back with the syntax of --bind.
      destinations += c == ',' || c == ':' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
    }
  }
  set_all("BIND", destinations);
  if (!action_.app.empty()) {
    set_all("APPNAME", action_.app);
  }
  if (action_.no_eval) {
    set_all("NO_EVAL", "1");
  }
}

Outcome<> Planner::record() {
  init::LaunchRecord& record = plan_.record;
  record.action = action_.what;
  record.argv = action_.arguments;
  record.environment = std::move(input_.environment.imported);
  record.forwarded = std::move(input_.environment.forwarded);
  record.prepend_path = std::move(input_.environment.prepend_path);
  record.append_path = std::move(input_.environment.append_path);
  record.home = home_;
  record.cwd_required = !action_.cwd.empty();
  record.cwd = !action_.cwd.empty() ? action_.cwd
               : action_.contain    ? home_
                                    : input_.caller.directory;
  record.cwd_expected = action_.cwd.empty() && !action_.contain && is_wanted("cwd");
  record.app = action_.app;
  record.shell = action_.shell;
  record.umask = action_.no_umask ? 022 : input_.caller.umask;
  record.no_eval = action_.no_eval;
  record.reaper = action_.pid && !action_.no_init;
  record.ignored_signals = input_.caller.ignored_signals;
  record.blocked_signals = input_.caller.blocked_signals;
  if (!action_.seccomp.empty()) {
    POSTERN_TRY_ASSIGN(record.seccomp,
                       load_seccomp(absolute_path(action_.seccomp, input_.caller.directory),
                                    plan_.request.capabilities, warnings_));
  } else if (action_.fakeroot && plan_.fakeroot != Fakeroot::kNone) {
    POSTERN_TRY_ASSIGN(record.seccomp, imitation_filter(plan_.fakeroot));
  }
  record.message_level = input_.message_level;
  fixed_environment(record);
  // Small images have no /etc, and no program there that would miss its files. What a later mount
  // covers is not missing.
  const std::vector<MountRequest>& mounts = plan_.request.mounts;
  for (auto mount = mounts.begin(); mount != mounts.end(); ++mount) {
    const bool covered = std::any_of(mount + 1, mounts.end(), [&](const MountRequest& later) {
      return is_within(mount->target, later.target);
    });
    if (mount->operation == Operation::kBind && (mount->flags & kOptional) != 0 && !covered &&
        !mount->target.starts_with("/etc/")) {
      record.optional.push_back(mount->target);
    }
  }
  POSTERN_TRY_ASSIGN(plan_.request.init,
                     add_source({.kind = Source::Kind::kInit, .path = input_.init_program}));
  POSTERN_TRY_ASSIGN(plan_.request.record, add_source({.kind = Source::Kind::kContent}));
  return Ok{};
}

}  // namespace postern::plan
