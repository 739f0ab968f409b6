#include "frontend/plan/mounts.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <sstream>

#include <sys/stat.h>

#include <sched.h>
#include <unistd.h>

#include "frontend/plan/bind.h"
#include "frontend/plan/gpu.h"
#include "frontend/plan/host_mounts.h"
#include "frontend/plan/host_path.h"
#include "protocol/limits.h"

namespace postern::plan {
namespace {

Outcome<> add_minimal_dev(Builder& builder) {
  POSTERN_TRY(builder.add_tmpfs("/dev", 0755));
  // Memory of the payload's like any other: the job's limits bound it, not the session's size.
  POSTERN_TRY(builder.add({.operation = Operation::kTmpfs,
                           .flags = kDirectoryTarget,
                           .target = "/dev/shm",
                           .mode = 01777,
                           .size = kMaxSessionBytes},
                          std::nullopt));
  if ((builder.plan().request.namespaces & CLONE_NEWIPC) != 0) {
    POSTERN_TRY(builder.add_system(Operation::kMqueue, "/dev/mqueue", kOptional));
  }
  if (builder.site().devpts && builder.is_wanted("devpts")) {
    POSTERN_TRY(builder.add_system(Operation::kDevpts, "/dev/pts", kOptional));
    builder.plan().record.links.emplace_back("/dev/ptmx=pts/ptmx");
  }
  for (const char* node : {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}) {
    POSTERN_TRY(builder.add_device(node, false));
  }
  POSTERN_TRY(builder.add_device("/dev/tty", true));
  std::array<char, 256> terminal{};
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::ttyname_r(fd, terminal.data(), terminal.size()) == 0) {
      POSTERN_TRY(builder.add(
          {.operation = Operation::kDevice, .flags = kOptional, .target = "/dev/console"},
          Source{.kind = Source::Kind::kPath, .path = terminal.data()}));
      break;
    }
  }
  for (const char* link : {"/dev/fd=/proc/self/fd", "/dev/stdin=/proc/self/fd/0",
                           "/dev/stdout=/proc/self/fd/1", "/dev/stderr=/proc/self/fd/2"}) {
    builder.plan().record.links.emplace_back(link);
  }
  for (const std::string& node : gpu_devices(gpu_wish(builder.action()))) {
    if (!is_directory(node)) {
      POSTERN_TRY(builder.add_device(node, true));
    }
  }
  return Ok{};
}

// Where the home directory comes from on the host, and where it stands inside.
struct Home {
  std::string source;
  std::string target;
  bool custom = false;
};

Outcome<Home> choose_home(Builder& builder) {
  const std::string& option = builder.action().home;
  const Caller& caller = builder.caller();
  const bool root_inside = builder.plan().fakeroot != Fakeroot::kNone || builder.is_root();
  Home home{.source = caller.identity.home,
            .target = root_inside ? "/root" : caller.identity.home,
            .custom = !option.empty()};
  if (home.custom) {
    const auto colon = option.find(':');
    home.source = absolute_path(option.substr(0, colon), caller.directory);
    home.target = colon == std::string::npos ? home.source : option.substr(colon + 1);
    if (home.target.empty() || home.target.front() != '/') {
      return Problem{.what = "--home " + option + ": the destination is not an absolute path"};
    }
    if (!builder.site().user_binds) {
      return Problem{
          .what = "--home: the site's configuration allows no binds of users (allow.user-binds)"};
    }
    if (!exists(home.source)) {
      return path_problem("--home " + home.source, errno, "name a directory that exists");
    }
  }
  home.target = home.target.empty() ? "/" : absolute_path(home.target, "/");
  return home;
}

Outcome<> mount_home(Builder& builder, const Home& home) {
  const Action& action = builder.action();
  if (action.no_home || !builder.is_wanted("home") || (!home.custom && !builder.site().home)) {
    return Ok{};
  }
  if (home.target == "/") {
    builder.warn("the home directory is not mounted: its destination would be /");
    return Ok{};
  }
  if (action.contain && !home.custom) {
    if (action.workdir.empty()) {
      return builder.add_tmpfs(home.target, 0700);
    }
    POSTERN_TRY_ASSIGN(const std::string source, builder.work_directory("/home", 0700));
    return builder.add_own_bind(source, home.target);
  }
  if (!is_directory(home.source)) {
    builder.warn("the home directory " + home.source +
                 " does not exist on this host: it is empty inside");
    return builder.add_tmpfs(home.target, 0700);
  }
  return home.custom ? builder.add_bind(home.source, home.target, 0, Rank::kNamed)
                     : builder.add_bind(home.source, home.target, kOptional);
}

Outcome<> add_user_bind(Builder& builder, const Bind& bind, std::vector<std::string>& bound) {
  const std::string source = absolute_path(bind.source, builder.caller().directory);
  const std::string target = bind.target.empty() ? source : absolute_path(bind.target, "/");
  const unsigned read_only = bind.read_only ? unsigned{kReadOnly} : 0U;
  if (std::find(bound.begin(), bound.end(), target) != bound.end()) {
    builder.warn("the bind of " + source + " is left out: " + target +
                 " is already the destination of another");
    return Ok{};
  }
  struct stat status = {};
  if (::stat(source.c_str(), &status) != 0) {
    return path_problem("bind source " + source, errno, "make it first, or leave the bind out");
  }
  if (target == "/") {
    return Problem{.what =
                       "bind of " + source + ": the destination is /, the root of the container"};
  }
  if (bind.nested) {
    bound.push_back(target);
  }
  if (bind.from_image()) {
    POSTERN_TRY_ASSIGN(ImageServer server, open_data_image(source, bind.image_id));
    POSTERN_TRY_ASSIGN(const std::uint16_t descriptor,
                       builder.add_server(std::move(server), Source::Kind::kServed,
                                          bind.image_path.value_or("/")));
    return builder.add({.operation = Operation::kBind,
                        .flags = static_cast<std::uint8_t>(kReadOnly | kDirectoryTarget),
                        .descriptor = descriptor,
                        .target = target},
                       std::nullopt, Rank::kNamed);
  }
  if (S_ISCHR(status.st_mode) && is_within(source, "/dev")) {
    // Binds are nodev; a device node needs the operation made for it.
    return builder.add({.operation = Operation::kDevice, .target = target},
                       Source{.kind = Source::Kind::kPath, .path = source}, Rank::kNamed);
  }
  if (is_within(source, "/dev") && source == target && !builder.has_minimal_dev()) {
    return Ok{};  // already there, and a nodev bind would only take its devices away
  }
  return builder.add_bind(source, target, read_only, Rank::kNamed);
}

// "host:PROGRAM OPTION… DIRECTORY", in words that blanks separate.
Outcome<> add_fuse_mount(Builder& builder, const std::string& specification) {
  const std::size_t colon = std::min(specification.find(':'), specification.size());
  const std::string kind = specification.substr(0, colon);
  std::vector<std::string> words;
  std::istringstream rest(specification.substr(std::min(colon + 1, specification.size())));
  for (std::string word; rest >> word;) {
    words.push_back(word);
  }
  const std::string named = "--fusemount \"" + specification + '"';
  if (kind == "container" || kind == "container-daemon") {
    return Problem{.what = named + ": programs of the container are not started here",
                   .cure = "have the program on the host: host:PROGRAM … DIR"};
  }
  if ((kind != "host" && kind != "host-daemon") || words.size() < 2 ||
      words.back().front() != '/') {
    return Problem{.what = named + " is not understood",
                   .cure = "write host:PROGRAM OPTION… DIR, with an absolute path at the end"};
  }
  const std::string target = absolute_path(words.back(), "/");
  words.pop_back();
  if (target == "/") {
    return Problem{.what = named + ": the destination is /, the root of the container"};
  }
  ImageServer server = {.served = Served::kProgram, .path = words.front()};
  server.command = std::move(words);
  POSTERN_TRY_ASSIGN(const std::uint16_t descriptor,
                     builder.add_server(std::move(server), Source::Kind::kServed, "/"));
  return builder.add({.operation = Operation::kBind,
                      .flags = static_cast<std::uint8_t>(kDirectoryTarget),
                      .descriptor = descriptor,
                      .target = target},
                     std::nullopt, Rank::kNamed);
}

}  // namespace

Outcome<> add_dev(Builder& builder) {
  if (!builder.is_wanted("dev") || builder.site().dev == Dev::kNo) {
    return Ok{};
  }
  if (builder.has_minimal_dev()) {
    return add_minimal_dev(builder);
  }
  return builder.add_system(Operation::kDevHost, "/dev", kOptional);
}

Outcome<> add_configured_binds(Builder& builder) {
  const Action& action = builder.action();
  const Site& site = builder.site();
  if (site.hostfs && builder.is_wanted("hostfs") && !action.contain) {
    for (const std::string& mount : host_mounts()) {
      POSTERN_TRY(builder.add_bind(mount, mount, kOptional));
    }
  }
  for (const std::string& specification : site.binds) {
    const auto colon = specification.find(':');
    const std::string source = specification.substr(0, colon);
    const std::string target =
        colon == std::string::npos ? source : absolute_path(specification.substr(colon + 1), "/");
    const bool essential = target == "/etc/hosts" || target == "/etc/localtime";
    if (!builder.is_wanted(target) || !builder.is_wanted("bind-paths") ||
        (action.contain && !essential)) {
      continue;
    }
    if (target == "/etc/hosts" && action.contain && action.network == Network::kNone) {
      POSTERN_TRY(
          builder.add_file("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
                           target, kOptional | kReadOnly));
    } else if (exists(source)) {
      POSTERN_TRY(builder.add_bind(source, target, kOptional));
    } else if (!essential) {
      builder.warn("the site's bind of " + source + " is left out: it does not exist on this host");
    }
  }
  return Ok{};
}

Outcome<> add_kernel_file_systems(Builder& builder) {
  const Site& site = builder.site();
  if (site.proc && builder.is_wanted("proc")) {
    POSTERN_TRY(builder.add_system(Operation::kProc, "/proc", kOptional));
  }
  if (site.sys && builder.is_wanted("sys")) {
    // Writable, it ends the user's other containers: cgroup.kill of a delegated cgroup, and the
    // abort file of a FUSE connection, are the user's own.
    const unsigned read_only = builder.action().contain ? unsigned{kReadOnly} : 0U;
    POSTERN_TRY(builder.add_system(Operation::kSysfs, "/sys", kOptional | read_only));
  }
  return Ok{};
}

Outcome<std::string> add_home(Builder& builder) {
  POSTERN_TRY_ASSIGN(Home home, choose_home(builder));
  POSTERN_TRY(mount_home(builder, home));
  return std::move(home.target);
}

Outcome<> add_tmp(Builder& builder) {
  const Action& action = builder.action();
  const Site& site = builder.site();
  if (!site.tmp || !builder.is_wanted("tmp")) {
    return Ok{};
  }
  // ORDER: /var/tmp first: where the image links it to /tmp, the host's /tmp must end on top.
  static constexpr std::array<std::array<const char*, 2>, 2> kPlaces = {
      {{"/var/tmp", "/var_tmp"}, {"/tmp", "/tmp"}}};
  for (const auto& [target, below_workdir] : kPlaces) {
    if (!action.contain) {
      if (is_directory(target)) {
        POSTERN_TRY(builder.add_bind(target, target, kOptional));
      }
    } else if (action.workdir.empty() || !site.user_binds) {
      POSTERN_TRY(builder.add_tmpfs(target, 01777));
    } else {
      POSTERN_TRY_ASSIGN(const std::string source, builder.work_directory(below_workdir, 01777));
      POSTERN_TRY(builder.add_own_bind(source, target));
    }
  }
  return Ok{};
}

Outcome<> add_scratch(Builder& builder) {
  const Action& action = builder.action();
  if (!action.scratch.empty() && !builder.site().user_binds) {
    builder.warn("--scratch is not allowed by the site's configuration (allow.user-binds)");
    return Ok{};
  }
  for (const std::string& path : action.scratch) {
    if (path.front() != '/') {
      return Problem{.what = "--scratch " + path + ": not an absolute path"};
    }
    const std::string target = absolute_path(path, "/");
    if (action.workdir.empty()) {
      POSTERN_TRY(builder.add_tmpfs(target, 0755, Rank::kNamed));
      continue;
    }
    POSTERN_TRY_ASSIGN(const std::string source, builder.work_directory("/scratch" + target, 0755));
    POSTERN_TRY(builder.add_own_bind(source, target, Rank::kNamed));
  }
  return Ok{};
}

Outcome<> add_cwd(Builder& builder) {
  const std::string& path = builder.caller().directory;
  if (path.empty() || builder.action().contain || !builder.site().user_binds ||
      !builder.is_wanted("cwd")) {
    return Ok{};
  }
  if (is_system_directory(path) || is_system_directory(resolved(path))) {
    return Ok{};
  }
  // In the image itself (a directory image that we stand in), or below something already bound at
  // its own path: nothing to add.
  return builder.is_visible(path) ? Outcome<>(Ok{}) : builder.add_bind(path, path, kOptional);
}

Outcome<> add_fuse_mounts(Builder& builder) {
  if (!builder.action().fuse_mounts.empty() && !builder.site().fusemount) {
    return Problem{.what = "the site's configuration does not allow --fusemount (allow.fusemount)",
                   .cure = "leave it out"};
  }
  for (const std::string& specification : builder.action().fuse_mounts) {
    POSTERN_TRY(add_fuse_mount(builder, specification));
  }
  return Ok{};
}

Outcome<std::vector<std::string>> add_user_binds(Builder& builder) {
  const Action& action = builder.action();
  std::vector<Bind> binds;
  for (const auto& [list, parse] :
       {std::pair(&action.binds, &parse_binds), std::pair(&action.mounts, &parse_mounts)}) {
    for (const std::string& specification : *list) {
      POSTERN_TRY_ASSIGN(std::vector<Bind> parsed, parse(specification));
      std::move(parsed.begin(), parsed.end(), std::back_inserter(binds));
    }
  }
  if (!binds.empty() && !builder.site().user_binds) {
    builder.warn(
        "--bind and --mount are not allowed by the site's configuration (allow.user-binds): "
        "ignored");
    return std::vector<std::string>{};
  }
  std::vector<std::string> bound;
  for (const Bind& bind : binds) {
    POSTERN_TRY(add_user_bind(builder, bind, bound));
  }
  return bound;
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
