#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>

#include <sys/stat.h>

#include <unistd.h>

#include "frontend/plan/gpu.h"
#include "frontend/plan/host_mounts.h"
#include "frontend/plan/host_path.h"
#include "frontend/plan/planner.h"
#include "protocol/limits.h"

namespace postern::plan {

Outcome<> Planner::dev() {
  if (!is_wanted("dev") || input_.site.dev == Dev::kNo) {
    return Ok{};
  }
  if (has_minimal_dev()) {
    return minimal_dev();
  }
  return add_system(Operation::kDevHost, "/dev", kOptional);
}

Outcome<> Planner::minimal_dev() {
  POSTERN_TRY(add_tmpfs("/dev", 0755));
  // Memory of the payload's like any other: the job's limits bound it, not the session's size.
  POSTERN_TRY(add({.operation = Operation::kTmpfs,
                   .flags = kDirectoryTarget,
                   .target = "/dev/shm",
                   .mode = 01777,
                   .size = kMaxSessionBytes},
                  std::nullopt));
  if (action_.ipc) {
    POSTERN_TRY(add_system(Operation::kMqueue, "/dev/mqueue", kOptional));
  }
  if (input_.site.devpts && is_wanted("devpts")) {
    POSTERN_TRY(add_system(Operation::kDevpts, "/dev/pts", kOptional));
    plan_.record.links.emplace_back("/dev/ptmx=pts/ptmx");
  }
  for (const char* node : {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}) {
    POSTERN_TRY(add_device(node, false));
  }
  POSTERN_TRY(add_device("/dev/tty", true));
  std::array<char, 256> terminal{};
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::ttyname_r(fd, terminal.data(), terminal.size()) == 0) {
      POSTERN_TRY(
          add({.operation = Operation::kDevice, .flags = kOptional, .target = "/dev/console"},
              Source{.kind = Source::Kind::kPath, .path = terminal.data()}));
      break;
    }
  }
  for (const char* link : {"/dev/fd=/proc/self/fd", "/dev/stdin=/proc/self/fd/0",
                           "/dev/stdout=/proc/self/fd/1", "/dev/stderr=/proc/self/fd/2"}) {
    plan_.record.links.emplace_back(link);
  }
  for (const std::string& node : gpu_devices(action_.nv, action_.rocm)) {
    if (!is_directory(node)) {
      POSTERN_TRY(add_device(node, true));
    }
  }
  return Ok{};
}

// -------------------------------------------------------------------------------- default mounts

Outcome<> Planner::configured_binds() {
  if (input_.site.hostfs && is_wanted("hostfs") && !action_.contain) {
    for (const std::string& mount : host_mounts()) {
      POSTERN_TRY(add_bind(mount, mount, kOptional));
    }
  }
  for (const std::string& specification : input_.site.binds) {
    const auto colon = specification.find(':');
    const std::string source = specification.substr(0, colon);
    const std::string target =
        colon == std::string::npos ? source : absolute_path(specification.substr(colon + 1), "/");
    const bool essential = target == "/etc/hosts" || target == "/etc/localtime";
    if (!is_wanted(target) || !is_wanted("bind-paths") || (action_.contain && !essential)) {
      continue;
    }
    if (target == "/etc/hosts" && action_.contain && action_.network == Network::kNone) {
      POSTERN_TRY(add_file("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
                           target, kOptional | kReadOnly));
    } else if (exists(source)) {
      POSTERN_TRY(add_bind(source, target, kOptional));
    } else if (!essential) {
      warn("the site's bind of " + source + " is left out: it does not exist on this host");
    }
  }
  return Ok{};
}

Outcome<> Planner::kernel_file_systems() {
  if (input_.site.proc && is_wanted("proc")) {
    POSTERN_TRY(add_system(Operation::kProc, "/proc", kOptional));
  }
  if (input_.site.sys && is_wanted("sys")) {
    POSTERN_TRY(add_system(Operation::kSysfs, "/sys", kOptional));
  }
  return Ok{};
}

Outcome<> Planner::home() {
  std::string source = input_.caller.identity.home;
  home_ = plan_.fakeroot != Fakeroot::kNone || is_root() ? "/root" : source;
  const bool custom = !action_.home.empty();
  if (custom) {
    const auto colon = action_.home.find(':');
    source = absolute_path(action_.home.substr(0, colon), input_.caller.directory);
    home_ = colon == std::string::npos ? source : action_.home.substr(colon + 1);
    if (home_.empty() || home_.front() != '/') {
      return Problem{.what =
                         "--home " + action_.home + ": the destination is not an absolute path"};
    }
    if (!input_.site.user_binds) {
      return Problem{
          .what = "--home: the site's configuration allows no binds of users (allow.user_binds)"};
    }
    if (!exists(source)) {
      return system_problem("--home " + source, errno, "name a directory that exists");
    }
  }
  home_ = home_.empty() ? "/" : absolute_path(home_, "/");
  if (action_.no_home || !is_wanted("home") || (!custom && !input_.site.home)) {
    return Ok{};
  }
  if (home_ == "/") {
    warn("the home directory is not mounted: its destination would be /");
    return Ok{};
  }
  if (action_.contain && !custom) {
    if (action_.workdir.empty()) {
      return add_tmpfs(home_, 0700);
    }
    POSTERN_TRY_ASSIGN(source, work_directory("/home", 0700));
    return add_own_bind(source, home_);
  }
  if (!is_directory(source)) {
    warn("the home directory " + source + " does not exist on this host: it is empty inside");
    return add_tmpfs(home_, 0700);
  }
  is_named_ = custom;
  auto added = add_bind(source, home_, custom ? 0U : unsigned{kOptional});
  is_named_ = false;
  return added;
}

Outcome<> Planner::tmp() {
  if (!input_.site.tmp || !is_wanted("tmp")) {
    return Ok{};
  }
  // ORDER: /var/tmp first: where the image links it to /tmp, the host's /tmp must end on top.
  static constexpr std::array<std::array<const char*, 2>, 2> kPlaces = {
      {{"/var/tmp", "/var_tmp"}, {"/tmp", "/tmp"}}};
  for (const auto& [target, below_workdir] : kPlaces) {
    if (!action_.contain) {
      if (is_directory(target)) {
        POSTERN_TRY(add_bind(target, target, kOptional));
      }
    } else if (action_.workdir.empty() || !input_.site.user_binds) {
      POSTERN_TRY(add_tmpfs(target, 01777));
    } else {
      POSTERN_TRY_ASSIGN(const std::string source, work_directory(below_workdir, 01777));
      POSTERN_TRY(add_own_bind(source, target));
    }
  }
  return Ok{};
}

Outcome<> Planner::scratch() {
  if (!action_.scratch.empty() && !input_.site.user_binds) {
    warn("--scratch is not allowed by the site's configuration (allow.user_binds)");
    return Ok{};
  }
  for (const std::string& path : action_.scratch) {
    if (path.front() != '/') {
      return Problem{.what = "--scratch " + path + ": not an absolute path"};
    }
    const std::string target = absolute_path(path, "/");
    if (action_.workdir.empty()) {
      POSTERN_TRY(add_tmpfs(target, 0755));
      continue;
    }
    POSTERN_TRY_ASSIGN(const std::string source, work_directory("/scratch" + target, 0755));
    POSTERN_TRY(add_own_bind(source, target));
  }
  return Ok{};
}

Outcome<> Planner::cwd() {
  const std::string& path = input_.caller.directory;
  if (path.empty() || action_.contain || !input_.site.user_binds || !is_wanted("cwd")) {
    return Ok{};
  }
  if (is_system_directory(path) || is_system_directory(resolved(path))) {
    return Ok{};
  }
  // In the image itself (a directory image that we stand in), or below something already bound at
  // its own path: nothing to add.
  const bool visible = std::any_of(visible_.begin(), visible_.end(), [&](const std::string& mount) {
    return is_within(path, mount);
  });
  return visible ? Outcome<>(Ok{}) : add_bind(path, path, kOptional);
}

Outcome<> Planner::user_bind(const Bind& bind) {
  const std::string source = absolute_path(bind.source, input_.caller.directory);
  const std::string target = bind.target.empty() ? source : absolute_path(bind.target, "/");
  const unsigned read_only = bind.read_only ? unsigned{kReadOnly} : 0U;
  if (std::find(destinations_.begin(), destinations_.end(), target) != destinations_.end()) {
    warn("the bind of " + source + " is left out: " + target +
         " is already the destination of another");
    return Ok{};
  }
  struct stat status = {};
  if (::stat(source.c_str(), &status) != 0) {
    return system_problem("bind source " + source, errno, "make it first, or leave the bind out");
  }
  if (target == "/") {
    return Problem{.what =
                       "bind of " + source + ": the destination is /, the root of the container"};
  }
  if (bind.nested) {
    destinations_.push_back(target);
  }
  if (bind.from_image()) {
    POSTERN_TRY_ASSIGN(ImageServer server, open_data_image(source, bind.image_id));
    POSTERN_TRY_ASSIGN(
        const std::uint8_t descriptor,
        add_server(std::move(server), Source::Kind::kServed, bind.image_path.value_or("/")));
    return add({.operation = Operation::kBind,
                .flags = static_cast<std::uint8_t>(kReadOnly | kDirectoryTarget),
                .descriptor = descriptor,
                .target = target},
               std::nullopt);
  }
  if (S_ISCHR(status.st_mode) && is_within(source, "/dev")) {
    // Binds are nodev; a device node needs the operation made for it.
    return add({.operation = Operation::kDevice, .target = target},
               Source{.kind = Source::Kind::kPath, .path = source});
  }
  if (is_within(source, "/dev") && source == target && !has_minimal_dev()) {
    return Ok{};  // already there, and a nodev bind would only take its devices away
  }
  return add_bind(source, target, read_only);
}

Outcome<> Planner::user_binds() {
  std::vector<Bind> binds;
  for (const auto& [list, parse] :
       {std::pair(&action_.binds, &parse_binds), std::pair(&action_.mounts, &parse_mounts)}) {
    for (const std::string& specification : *list) {
      POSTERN_TRY_ASSIGN(std::vector<Bind> parsed, parse(specification));
      std::move(parsed.begin(), parsed.end(), std::back_inserter(binds));
    }
  }
  if (!binds.empty() && !input_.site.user_binds) {
    warn(
        "--bind and --mount are not allowed by the site's configuration (allow.user_binds): "
        "ignored");
    return Ok{};
  }
  for (const Bind& bind : binds) {
    POSTERN_TRY(user_bind(bind));
  }
  return Ok{};
}

bool is_system_directory(std::string_view path) {
  static constexpr std::array<std::string_view, 10> kExact = {
      "/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64"};
  static constexpr std::array<std::string_view, 3> kTrees = {"/sys", "/proc", "/dev"};
  return std::find(kExact.begin(), kExact.end(), path) != kExact.end() ||
         std::any_of(kTrees.begin(), kTrees.end(),
                     [path](std::string_view tree) { return is_within(path, tree); });
}

}  // namespace postern::plan
