#include "frontend/plan/make_plan.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include <linux/capability.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/plan/bind.h"
#include "frontend/plan/fakeroot.h"
#include "frontend/plan/gpu.h"
#include "frontend/plan/host_mounts.h"
#include "frontend/plan/seccomp_profile.h"
#include "protocol/limits.h"

namespace postern::plan {
namespace {

constexpr std::uint64_t kAllCapabilities = (std::uint64_t{1} << (CAP_LAST_CAP + 1)) - 1;
constexpr std::string_view kLibraries = "/.singularity.d/libs";

bool is_directory(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool exists(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0;
}

bool is_own(const std::string& path) {
  struct stat status = {};
  return ::stat(path.c_str(), &status) == 0 && status.st_uid == ::geteuid();
}

// The path with every symbolic link followed, or the path itself where that fails.
std::string resolved(const std::string& path) {
  char* real = ::realpath(path.c_str(), nullptr);
  std::string text = real != nullptr ? real : path;
  ::free(real);  // NOLINT(cppcoreguidelines-no-malloc): realpath(3) allocates
  return text;
}

// A part of a path that another user may have prepared must be a directory of the caller's, not a
// link to somewhere else.
Outcome<> check_prepared(const std::string& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) {
    return system_problem("looking at " + path, errno);
  }
  if (!S_ISDIR(status.st_mode)) {
    return Problem{.what = path + " is a link or a file, and must be a directory",
                   .cure = "remove it, or name another place"};
  }
  if (status.st_uid != ::geteuid()) {
    return Problem{.what = path + " belongs to another user",
                   .cure = "name a directory of your own"};
  }
  return Ok{};
}

// mkdir -p; the last component gets `mode` (with the sticky bit, past the umask). What lies below
// the first `named` bytes, which the user named, must be the caller's own.
Outcome<> make_directory(const std::string& path, mode_t mode, std::size_t named) {
  for (std::size_t at = 1; at != std::string::npos; ++at) {
    at = path.find('/', at);
    const std::string part = path.substr(0, at);
    const bool last = at == std::string::npos;
    if (::mkdir(part.c_str(), last ? mode & 0777 : 0755) == 0) {
      if (last && ::chmod(part.c_str(), mode) != 0) {
        return system_problem("setting the mode of " + part, errno);
      }
    } else if (errno != EEXIST || (last && !is_directory(part))) {
      return system_problem("making the directory " + part, errno == EEXIST ? ENOTDIR : errno);
    } else if (part.size() > named) {
      POSTERN_TRY(check_prepared(part));
    }
    if (last) {
      break;
    }
  }
  return Ok{};
}

// Ancestors before what lies below them, else as they come: a mount hides what was mounted below
// its place before.
std::vector<MountRequest> deeper_last(std::vector<MountRequest> mounts) {
  std::vector<MountRequest> out;
  for (MountRequest& mount : mounts) {
    const auto below = std::find_if(out.begin(), out.end(), [&](const MountRequest& other) {
      return other.target != mount.target && is_within(other.target, mount.target);
    });
    out.insert(below, std::move(mount));
  }
  return out;
}

class Planner {
 public:
  Planner(PlanInput input, std::vector<std::string>& warnings)
      : input_(std::move(input)), action_(input_.action), warnings_(warnings) {}

  Outcome<LaunchPlan> run();

 private:
  // --- parts of the request, in the order in which they are executed
  Outcome<> root();
  Outcome<> layers();
  Outcome<> overlay(const std::string& specification, bool& writable_seen);
  Outcome<> upper(const std::string& directory, std::string_view option);
  Outcome<> namespaces();
  void capabilities();
  Outcome<> dev();
  Outcome<> minimal_dev();
  Outcome<> configured_binds();
  Outcome<> kernel_file_systems();
  Outcome<> home();
  Outcome<> tmp();
  Outcome<> scratch();
  Outcome<> cwd();
  Outcome<> files();
  Outcome<> resolv_conf();
  Outcome<> account_file(Source::Merge merge, const char* path);
  Outcome<> libraries();
  Outcome<> user_binds();
  Outcome<> user_bind(const Bind& bind);
  void order();
  void skeleton();
  Outcome<> record();
  [[nodiscard]] std::string first_program() const;
  void fixed_environment(init::LaunchRecord& record);

  // --- building blocks
  Outcome<std::uint8_t> add_source(Source source);
  Outcome<std::uint8_t> add_server(ImageServer server, Source::Kind kind, std::string path);
  Outcome<> add(MountRequest mount, std::optional<Source> source);
  Outcome<> add_bind(const std::string& source, const std::string& target, unsigned flags);
  Outcome<> add_own_bind(const std::string& source, const std::string& target);
  Outcome<std::string> work_directory(const std::string& below, mode_t mode) const;
  Outcome<> add_file(std::string content, const std::string& target, unsigned flags);
  Outcome<> add_tmpfs(const std::string& target, std::uint32_t mode);
  Outcome<> add_device(const std::string& path, bool optional);
  Outcome<> add_system(Operation operation, const char* target, unsigned flags);

  [[nodiscard]] bool is_wanted(std::string_view name) const;
  [[nodiscard]] bool has_minimal_dev() const;

  [[nodiscard]] bool is_root() const { return input_.caller.identity.uid == 0; }

  void warn(std::string text) { warnings_.push_back(std::move(text)); }

  PlanInput input_;
  Action& action_;
  std::vector<std::string>& warnings_;
  LaunchPlan plan_;
  bool is_named_ = false;                  // what is added now was asked for by name
  std::vector<MountRequest> named_;        // … and lies over everything that comes by default
  std::string home_;                       // inside
  std::vector<std::string> visible_;       // host paths bound at the same path inside
  std::vector<std::string> destinations_;  // of user binds, for POSTERN_BIND
};

// ------------------------------------------------------------------------------ building blocks

Outcome<std::uint8_t> Planner::add_source(Source source) {
  if (plan_.sources.size() >= kMaxDescriptors) {
    return Problem{.what = "this start needs more than " + std::to_string(kMaxDescriptors) +
                           " mounts and files",
                   .cure = "bind a directory that holds the files, not each file"};
  }
  plan_.sources.push_back(std::move(source));
  return static_cast<std::uint8_t>(plan_.sources.size() - 1);
}

Outcome<std::uint8_t> Planner::add_server(ImageServer server, Source::Kind kind, std::string path) {
  plan_.servers.push_back(std::move(server));
  return add_source({.kind = kind, .path = std::move(path), .server = plan_.servers.size() - 1});
}

Outcome<> Planner::add(MountRequest mount, std::optional<Source> source) {
  if (mount.target.size() >= kMaxTargetBytes) {
    return Problem{.what = "the destination " + mount.target.substr(0, 64) + "… is longer than " +
                           std::to_string(kMaxTargetBytes - 1) + " bytes"};
  }
  if (source) {
    POSTERN_TRY_ASSIGN(mount.descriptor, add_source(*std::move(source)));
  }
  (is_named_ ? named_ : plan_.request.mounts).push_back(std::move(mount));
  return Ok{};
}

// Directories and files alike: the mount point, should it be missing, becomes what the source is.
Outcome<> Planner::add_bind(const std::string& source, const std::string& target, unsigned flags) {
  flags |= is_directory(source) ? unsigned{kDirectoryTarget} : 0U;
  if (source == target) {
    visible_.push_back(source);
  }
  return add(
      {.operation = Operation::kBind, .flags = static_cast<std::uint8_t>(flags), .target = target},
      Source{.kind = Source::Kind::kPath, .path = source});
}

// A directory that work_directory() made: a link that has taken its place since is not followed.
Outcome<> Planner::add_own_bind(const std::string& source, const std::string& target) {
  return add({.operation = Operation::kBind, .flags = kDirectoryTarget, .target = target},
             Source{.kind = Source::Kind::kPath, .path = source, .no_links = true});
}

Outcome<std::string> Planner::work_directory(const std::string& below, mode_t mode) const {
  const std::string named = absolute_path(action_.workdir, input_.caller.directory);
  auto made = make_directory(named + below, mode, named.size());
  if (!made) {
    Problem problem = std::move(made).error();
    problem.what = "--workdir " + named + ": " + problem.what;
    return problem;
  }
  return named + below;
}

Outcome<> Planner::add_file(std::string content, const std::string& target, unsigned flags) {
  return add(
      {.operation = Operation::kFile, .flags = static_cast<std::uint8_t>(flags), .target = target},
      Source{.kind = Source::Kind::kContent, .content = std::move(content)});
}

Outcome<> Planner::add_tmpfs(const std::string& target, std::uint32_t mode) {
  return add(
      {.operation = Operation::kTmpfs, .flags = kDirectoryTarget, .target = target, .mode = mode},
      std::nullopt);
}

Outcome<> Planner::add_device(const std::string& path, bool optional) {
  if (optional && !exists(path)) {
    return Ok{};
  }
  return add({.operation = Operation::kDevice,
              .flags = static_cast<std::uint8_t>(optional ? unsigned{kOptional} : 0U),
              .target = path},
             Source{.kind = Source::Kind::kPath, .path = path});
}

Outcome<> Planner::add_system(Operation operation, const char* target, unsigned flags) {
  return add({.operation = operation,
              .flags = static_cast<std::uint8_t>(flags | kDirectoryTarget),
              .target = target},
             std::nullopt);
}

bool Planner::is_wanted(std::string_view name) const {
  return std::find(action_.no_mount.begin(), action_.no_mount.end(), name) ==
         action_.no_mount.end();
}

bool Planner::has_minimal_dev() const {
  return action_.contain || input_.site.dev == Dev::kMinimal;
}

// ----------------------------------------------------------------------------- root and overlays

Outcome<> Planner::root() {
  if (input_.image.directory) {
    plan_.request.root = RootKind::kDirectory;
    POSTERN_TRY(add_source({.kind = Source::Kind::kPath, .path = input_.image.path}));
  } else {
    plan_.request.root = RootKind::kFuse;
    input_.image.root->program = first_program();
    POSTERN_TRY(add_server(*std::move(input_.image.root), Source::Kind::kFuse, {}));
  }
  if (action_.writable && !input_.image.directory) {
    return Problem{.what = "--writable: " + input_.image.path + " is read-only by its nature",
                   .cure =
                       "use --writable-tmpfs or --overlay DIR, or make a directory with "
                       "`postern build --sandbox DIR IMAGE`"};
  }
  plan_.request.writable_root = action_.writable;
  return Ok{};
}

Outcome<> Planner::upper(const std::string& directory, std::string_view option) {
  for (const char* part : {"/upper", "/work"}) {
    auto made = make_directory(directory + part, 0755, directory.size());
    if (!made) {
      Problem problem = std::move(made).error();
      problem.what = std::string(option) + ' ' + directory + ": " + problem.what;
      problem.cure = "a writable overlay needs a directory of yours; add :ro to use it read-only";
      return problem;
    }
  }
  plan_.request.scratch = Scratch::kDirectory;
  POSTERN_TRY_ASSIGN(plan_.request.upper,
                     add_source({.kind = Source::Kind::kPath, .path = directory}));
  return Ok{};
}

Outcome<> Planner::overlay(const std::string& specification, bool& writable_seen) {
  std::string path = specification;
  bool read_only = false;
  if (path.ends_with(":ro") || path.ends_with(":rw")) {
    read_only = path.ends_with(":ro");
    path.resize(path.size() - 3);
  }
  path = absolute_path(path, input_.caller.directory);
  if (!exists(path)) {
    return system_problem("--overlay " + path, errno, "make the directory first: mkdir " + path);
  }
  if (plan_.request.layers.size() >= kMaxLayers) {
    return Problem{.what = "more than " + std::to_string(kMaxLayers) + " overlays"};
  }
  if (!is_directory(path)) {
    POSTERN_TRY_ASSIGN(ImageServer server, open_data_image(path, std::nullopt));
    POSTERN_TRY_ASSIGN(const std::uint8_t descriptor,
                       add_server(std::move(server), Source::Kind::kFuse, {}));
    plan_.request.layers.push_back({.kind = RootKind::kFuse, .descriptor = descriptor});
    return Ok{};
  }
  if (!read_only && ::access(path.c_str(), W_OK) != 0) {
    warn("--overlay " + path + " is not writable by you: it is used read-only");
    read_only = true;
  }
  if (!read_only && !is_own(path)) {
    warn("--overlay " + path +
         " belongs to another user, who could redirect it: it is used read-only");
    read_only = true;
  }
  if (read_only) {
    const std::string upper_part = path + "/upper";
    const bool has_upper = is_directory(upper_part);
    POSTERN_TRY_ASSIGN(const std::uint8_t descriptor,
                       add_source({.kind = Source::Kind::kPath,
                                   .path = has_upper ? upper_part : path,
                                   .no_links = has_upper}));
    plan_.request.layers.push_back({.kind = RootKind::kDirectory, .descriptor = descriptor});
    return Ok{};
  }
  if (std::exchange(writable_seen, true)) {
    return Problem{.what = "--overlay " + path + ": only one overlay can be writable",
                   .cure = "add :ro to all others"};
  }
  return upper(path, "--overlay");
}

Outcome<> Planner::layers() {
  plan_.request.scratch_bytes = input_.site.session_bytes;
  if (action_.writable) {
    if (!action_.overlays.empty()) {
      return Problem{.what = "--writable and --overlay exclude each other",
                     .cure = "--writable writes to the image directory itself; choose one"};
    }
    if (action_.writable_tmpfs) {
      warn("--writable-tmpfs has no effect together with --writable");
    }
    return Ok{};
  }
  if (!input_.site.overlay && (action_.writable_tmpfs || !action_.overlays.empty())) {
    return Problem{.what = "the site's configuration allows no overlay (allow.overlay)"};
  }
  plan_.request.scratch = action_.writable_tmpfs ? Scratch::kWritable : Scratch::kMountPoints;
  for (ImageServer& server : input_.image.overlays) {
    POSTERN_TRY_ASSIGN(const std::uint8_t descriptor,
                       add_server(std::move(server), Source::Kind::kFuse, {}));
    plan_.request.layers.push_back({.kind = RootKind::kFuse, .descriptor = descriptor});
  }
  bool writable_seen = false;
  for (const std::string& specification : action_.overlays) {
    POSTERN_TRY(overlay(specification, writable_seen));
  }
  if (writable_seen && action_.writable_tmpfs) {
    return Problem{.what = "--writable-tmpfs and a writable --overlay exclude each other",
                   .cure = "add :ro to the overlay, or leave --writable-tmpfs out"};
  }
  return Ok{};
}

// -------------------------------------------------------------------- namespaces and capabilities

Outcome<> Planner::namespaces() {
  const auto want = [&](bool asked, bool allowed, std::uint32_t flag, const char* option) {
    if (asked && !allowed) {
      warn(std::string(option) +
           " is not allowed by the site's configuration: the host's is shared");
    } else if (asked) {
      plan_.request.namespaces |= flag;
    }
    return asked && allowed;
  };
  const Site& site = input_.site;
  action_.pid = want(action_.pid, site.pid_namespace, CLONE_NEWPID, "--pid");
  action_.ipc = want(action_.ipc, site.ipc_namespace, CLONE_NEWIPC, "--ipc");
  action_.uts = want(action_.uts, site.uts_namespace, CLONE_NEWUTS, "--uts");
  // Not shared instead, as the others are: a job that asked for no network must not have one.
  if (action_.network == Network::kNone && !site.net_namespace) {
    return Problem{.what = "--net is not allowed by the site's configuration (allow.net-namespace)",
                   .cure = "leave out --net; the host's network is shared then"};
  }
  want(action_.network == Network::kNone, true, CLONE_NEWNET, "--net");
  if (action_.uts) {
    plan_.request.hostname = action_.hostname;
  }
  if (action_.network_namespace.empty()) {
    return Ok{};
  }
  const std::string path = absolute_path(action_.network_namespace, input_.caller.directory);
  if (!exists(path)) {
    return system_problem("--netns-path " + path, errno,
                          "name the file of a network namespace, as `ip netns` makes");
  }
  POSTERN_TRY_ASSIGN(plan_.request.join_net,
                     add_source({.kind = Source::Kind::kPath, .path = path}));
  return Ok{};
}

void Planner::capabilities() {
  std::uint64_t set = 0;
  if ((is_root() || plan_.fakeroot != Fakeroot::kNone) && !action_.no_privileges) {
    set = kAllCapabilities;
  }
  plan_.request.capabilities = (set | action_.add_capabilities) & ~action_.drop_capabilities;
}

// ------------------------------------------------------------------------------------------ /dev

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

// --------------------------------------------------------------------------------------- /etc

Outcome<> Planner::account_file(Source::Merge merge, const char* path) {
  Source source{.kind = Source::Kind::kContent, .merge = merge, .path = path};
  return add({.operation = Operation::kFile,
              .flags = kReadOnly | kOptional | kNeedsTarget,
              .target = path},
             std::move(source));
}

Outcome<> Planner::resolv_conf() {
  static constexpr const char* kPath = "/etc/resolv.conf";
  if (!input_.site.resolv_conf || !is_wanted(kPath)) {
    return Ok{};
  }
  if (!action_.dns.empty()) {
    std::string content;
    for (const std::string& address : action_.dns) {
      content += "nameserver " + address + '\n';
    }
    return add_file(std::move(content), kPath, kReadOnly);
  }
  return exists(kPath) ? add_bind(kPath, kPath, kOptional) : Outcome<>(Ok{});
}

Outcome<> Planner::files() {
  // Root, real or fake, in a container that it can change keeps the image's own accounts: package
  // managers add to them.
  const bool keep = (is_root() || action_.fakeroot) &&
                    (action_.writable || action_.writable_tmpfs || !action_.overlays.empty());
  if (input_.site.passwd && !keep) {
    POSTERN_TRY(account_file(Source::Merge::kPasswd, "/etc/passwd"));
  }
  if (input_.site.group && !keep) {
    POSTERN_TRY(account_file(Source::Merge::kGroup, "/etc/group"));
  }
  POSTERN_TRY(resolv_conf());
  if (!plan_.request.hostname.empty()) {
    POSTERN_TRY(add_file(plan_.request.hostname + '\n', "/etc/hostname", kOptional | kReadOnly));
  }
  return Ok{};
}

// ------------------------------------------------------------------------- libraries, user binds

Outcome<> Planner::libraries() {
  GpuFiles gpu = find_gpu_files(action_.nv, action_.rocm);
  for (std::string& warning : gpu.warnings) {
    warn(std::move(warning));
  }
  std::vector<std::string> libraries = std::move(gpu.libraries);
  for (const std::string& path : action_.libraries) {
    libraries.push_back(absolute_path(path, input_.caller.directory));
    if (!exists(libraries.back())) {
      return system_problem("--containlibs " + libraries.back(), errno, "name a file of the host");
    }
  }
  if (!libraries.empty()) {
    POSTERN_TRY(add_tmpfs(std::string(kLibraries), 0755));
    plan_.record.libs_bound = true;
  }
  for (const std::string& path : libraries) {
    const std::string name = path.substr(path.rfind('/'));
    POSTERN_TRY(add_bind(path, std::string(kLibraries) + name, kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.binaries) {
    POSTERN_TRY(add_bind(path, "/usr/bin" + path.substr(path.rfind('/')), kReadOnly | kOptional));
  }
  for (const std::string& path : gpu.files) {
    POSTERN_TRY(add_bind(path, path, kReadOnly | kOptional));
  }
  return Ok{};
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

// The rule of what lies on top: what was asked for by name over what comes by default, and among
// those the deeper destination over the shallower one, whatever the order of the words.
void Planner::order() {
  std::vector<MountRequest> all = deeper_last(std::move(plan_.request.mounts));
  std::vector<MountRequest> named = deeper_last(std::move(named_));
  std::move(named.begin(), named.end(), std::back_inserter(all));
  plan_.request.mounts = std::move(all);
}

// ---------------------------------------------------------------------------------------- record

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

Outcome<LaunchPlan> Planner::run() {
  for (const std::string& name : action_.no_mount) {
    static constexpr std::array<std::string_view, 9> kNames = {
        "proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths"};
    if (name.front() != '/' && std::find(kNames.begin(), kNames.end(), name) == kNames.end()) {
      warn("--no-mount " + name + ": there is no such mount");
    }
  }
  if (action_.keep_privileges && !is_root()) {
    return Problem{.what = "--keep-privs is for root: you have no privileges to keep",
                   .cure = "use --fakeroot to appear as root, or --add-caps"};
  }
  plan_.image_name = input_.image.path;
  plan_.share = action_.share;
  plan_.inherited = std::move(input_.inherited);
  plan_.identity = input_.caller.identity;
  plan_.fakeroot = choose_fakeroot(plan_.identity, action_.fakeroot);
  if (plan_.fakeroot != Fakeroot::kNone) {
    plan_.identity = root_identity();
  }
  POSTERN_TRY(root());
  POSTERN_TRY(layers());
  POSTERN_TRY(namespaces());
  capabilities();
  POSTERN_TRY(dev());
  POSTERN_TRY(configured_binds());
  POSTERN_TRY(kernel_file_systems());
  POSTERN_TRY(tmp());
  POSTERN_TRY(home());
  POSTERN_TRY(cwd());
  POSTERN_TRY(files());
  POSTERN_TRY(libraries());
  is_named_ = true;
  POSTERN_TRY(scratch());
  POSTERN_TRY(user_binds());
  order();
  skeleton();
  POSTERN_TRY(record());
  return std::move(plan_);
}

}  // namespace

bool is_system_directory(std::string_view path) {
  static constexpr std::array<std::string_view, 10> kExact = {
      "/", "/etc", "/bin", "/mnt", "/usr", "/var", "/opt", "/sbin", "/lib", "/lib64"};
  static constexpr std::array<std::string_view, 3> kTrees = {"/sys", "/proc", "/dev"};
  return std::find(kExact.begin(), kExact.end(), path) != kExact.end() ||
         std::any_of(kTrees.begin(), kTrees.end(),
                     [path](std::string_view tree) { return is_within(path, tree); });
}

Outcome<LaunchPlan> make_plan(PlanInput input, std::vector<std::string>& warnings) {
  return Planner(std::move(input), warnings).run();
}

}  // namespace postern::plan
