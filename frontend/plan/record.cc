#include "frontend/plan/record.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>

#include <fcntl.h>
#include <sched.h>

#include "frontend/plan/bind.h"
#include "frontend/plan/contained_calls.h"
#include "frontend/plan/fakeroot.h"
#include "frontend/plan/seccomp_profile.h"

namespace postern::plan {
namespace {

// Under the names that programs inside look for.
void set_for_all(init::LaunchRecord& record, const std::string& name, const std::string& value) {
  for (const char* prefix : {"POSTERN_", "APPTAINER_", "SINGULARITY_"}) {
    record.fixed.push_back(prefix + name + '=' + value);
  }
}

void fixed_environment(Builder& builder, const std::vector<std::string>& bound) {
  const Action& action = builder.action();
  const std::string& image = builder.input().image.path;
  init::LaunchRecord& record = builder.plan().record;
  const auto set = [&](const std::string& name, const std::string& value) {
    record.fixed.push_back(name + '=' + value);
  };
  set("HOME", record.home);
  set("USER_PATH", builder.input().host_path);
  const auto is_given = [&](std::string_view name) {
    return std::any_of(record.forwarded.begin(), record.forwarded.end(),
                       [name](const std::string& one) { return one.starts_with(name); });
  };
  const std::string& prompt = builder.input().prompt;
  if (!is_given("PS1=")) {
    set("PS1", prompt);
    // Start files of shells set a prompt too: this one comes back before the first.
    if (!is_given("PROMPT_COMMAND=")) {
      set("PROMPT_COMMAND", "PS1=\"" + prompt + "\"; unset PROMPT_COMMAND");
    }
  }
  set_for_all(record, "CONTAINER", image);
  set_for_all(record, "NAME", image.substr(image.rfind('/') + 1));
  set_for_all(record, "ENVIRONMENT", "/.singularity.d/env/91-environment.sh");
  std::string destinations;
  for (const std::string& one : bound) {
    destinations += (destinations.empty() ? "" : ",");
    for (const char c : one) {
      // A nested start reads this list back with the syntax of --bind.
      destinations += c == ',' || c == ':' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
    }
  }
  set_for_all(record, "BIND", destinations);
  add_action_variables(record, action);
}

Outcome<std::vector<std::vector<std::uint8_t>>> filters(Builder& builder) {
  const Action& action = builder.action();
  const Fakeroot fakeroot = builder.plan().fakeroot;
  std::vector<std::vector<std::uint8_t>> list;
  if (action.contain) {
    POSTERN_TRY_ASSIGN(list.emplace_back(), contained_calls_filter());
  }
  if (!action.seccomp.empty()) {
    const std::string path = absolute_path(action.seccomp, builder.caller().directory);
    POSTERN_TRY_ASSIGN(list.emplace_back(),
                       load_seccomp(path, builder.plan().request.capabilities, builder.warnings()));
  } else if (action.fakeroot && fakeroot != Fakeroot::kNone) {
    POSTERN_TRY_ASSIGN(list.emplace_back(), imitation_filter(fakeroot));
  }
  return list;
}

}  // namespace

void add_action_variables(init::LaunchRecord& record, const Action& action) {
  static constexpr std::array kCommands = {"", "exec", "run", "shell", "test", "start"};
  set_for_all(record, "COMMAND", kCommands[static_cast<std::size_t>(action.what)]);
  set_for_all(record, "APPNAME", action.app);
  if (action.no_eval) {
    set_for_all(record, "NO_EVAL", "1");
  }
}

void add_skeleton(Builder& builder) {
  LaunchRequest& request = builder.plan().request;
  // With ranges of subordinate ids the caller is root of the namespace, but no owner of a foreign
  // tree is mapped either. A writable root has no layers.
  const UniqueFd root(
      request.root == RootKind::kDirectory && !request.writable_root
          ? ::open(builder.plan().sources[0].path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)
          : -1);
  if (root.valid()) {
    const Identity& caller = builder.caller().identity;
    builder.plan().skeleton =
        missing_mount_points(root.get(), caller.uid, caller.gid, request.mounts);
  }
}

Outcome<> add_record(Builder& builder, PayloadEnvironment environment, const Inside& inside) {
  const Action& action = builder.action();
  const Caller& caller = builder.caller();
  LaunchRequest& request = builder.plan().request;
  init::LaunchRecord& record = builder.plan().record;
  record.action = action.what;
  record.argv = action.arguments;
  record.environment = std::move(environment.imported);
  record.forwarded = inside.variables;
  std::move(environment.forwarded.begin(), environment.forwarded.end(),
            std::back_inserter(record.forwarded));
  record.prepend_path = std::move(environment.prepend_path);
  record.append_path = std::move(environment.append_path);
  record.home = inside.home;
  record.cwd_required = !action.cwd.empty();
  record.cwd = !action.cwd.empty() ? action.cwd : action.contain ? inside.home : caller.directory;
  record.cwd_expected = action.cwd.empty() && !action.contain && builder.is_wanted("cwd");
  record.app = action.app;
  record.shell = action.shell;
  record.umask = action.no_umask ? 022 : caller.umask;
  record.no_eval = action.no_eval;
  record.reaper = (request.namespaces & CLONE_NEWPID) != 0 && !action.no_init;
  record.ignored_signals = caller.ignored_signals;
  record.blocked_signals = caller.blocked_signals;
  POSTERN_TRY_ASSIGN(record.filters, filters(builder));
  record.message_level = builder.input().message_level;
  fixed_environment(builder, inside.bound);
  // Small images have no /etc, and no program there that would miss its files. What a later mount
  // covers is not missing.
  const std::vector<MountRequest>& mounts = request.mounts;
  for (auto mount = mounts.begin(); mount != mounts.end(); ++mount) {
    const bool covered = std::any_of(mount + 1, mounts.end(), [&](const MountRequest& later) {
      return is_within(mount->target, later.target);
    });
    if (mount->operation == Operation::kBind && (mount->flags & kOptional) != 0 && !covered &&
        !mount->target.starts_with("/etc/")) {
      record.optional.push_back(mount->target);
    }
  }
  POSTERN_TRY_ASSIGN(request.init, builder.add_source({.kind = Source::Kind::kInit,
                                                       .path = builder.input().init_program}));
  POSTERN_TRY_ASSIGN(request.record, builder.add_source({.kind = Source::Kind::kContent}));
  return Ok{};
}

}  // namespace postern::plan
