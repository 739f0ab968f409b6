#include "frontend/cli/action_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>

#include "policy/config/capabilities.h"
#include "protocol/exit_codes.h"
#include "protocol/launch_form.h"

namespace postern::cli {
namespace {

constexpr std::string_view kNoDaemon =
    "images come from registries and archives, not from a docker daemon";
constexpr std::string_view kCheckpoint = "use your batch system's or the program's own checkpoints";

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
  // name, letter, environment, kind, commands, value, help
  {"add-caps", 0, "ADD_CAPS", option::Kind::kList, kActions, "CAPS", "Linux capabilities to give to the payload"},
  {"app", 0, "APP,APPNAME", option::Kind::kText, kActions, "NAME", "the application of the image to run (SCIF)"},
  {"apply-cgroups", 0, "APPLY_CGROUPS", option::Kind::kText, kActions, "FILE", "limits from a TOML file"},
  {"bind", 'B', "BIND,BINDPATH", option::Kind::kArray, kActions, "SPEC", "bind src[:dst[:opts]] (opts: ro, rw, id=N, image-src=PATH), comma separated", {}, true},
  {"blkio-weight", 0, "BLKIO_WEIGHT", option::Kind::kText, kActions, "WEIGHT", "share of block devices, 10 to 1000"},
  {"blkio-weight-device", 0, "BLKIO_WEIGHT_DEVICE", option::Kind::kList, kActions, "DEVICE:WEIGHT", "share of one block device, 10 to 1000"},
  {"cdi-dirs", 0, "", option::Kind::kList, kActions, "DIRS", "directories of CDI specifications, instead of /etc/cdi and /var/run/cdi"},
  {"cleanenv", 'e', "CLEANENV", option::Kind::kFlag, kActions, "", "start with a clean environment"},
  {"compat", 0, "COMPAT", option::Kind::kFlag, kActions, "", "like OCI runtimes: --containall --no-init --no-umask --no-eval --writable-tmpfs"},
  {"compat32", 0, "COMPAT32", option::Kind::kFlag, kActions, "", "with --nv, --rocm: the driver's 32-bit libraries too"},
  {"contain", 'c', "CONTAIN", option::Kind::kFlag, kActions, "", "minimal /dev, private home and /tmp"},
  {"containall", 'C', "CONTAINALL", option::Kind::kFlag, kActions, "", "--contain, and private PID and IPC namespaces and environment"},
  {"containlibs", 0, "CONTAINLIBS", option::Kind::kList, kActions, "FILES", "host libraries to bind into /.singularity.d/libs"},
  {"cpu-shares", 0, "CPU_SHARES", option::Kind::kText, kActions, "SHARES", "share of the processors, 2 to 262144; usual is 1024"},
  {"cpus", 0, "CPUS", option::Kind::kText, kActions, "NUMBER", "processors that can be used at a time, such as 1.5"},
  {"cpuset-cpus", 0, "CPUSET_CPUS", option::Kind::kText, kActions, "LIST", "processors to run on, such as 0-3,8"},
  {"cpuset-mems", 0, "CPUSET_MEMS", option::Kind::kText, kActions, "LIST", "memory nodes to take memory from"},
  {"cwd", 0, "CWD,TARGET_CWD", option::Kind::kText, kForeground, "DIR", "initial directory inside the container"},
  {"device", 0, "", option::Kind::kList, kActions, "VENDOR/CLASS=NAME", "devices, as CDI specifications of the host describe them"},
  {"dns", 0, "DNS", option::Kind::kList, kActions, "ADDRESSES", "name servers for the container's resolv.conf"},
  {"drop-caps", 0, "DROP_CAPS", option::Kind::kList, kActions, "CAPS", "Linux capabilities to take from the payload"},
  {"env", 0, "", option::Kind::kArray, kActions, "NAME=VALUE", "set variables inside, comma separated"},
  {"env-file", 0, "ENV_FILE", option::Kind::kList, kActions, "FILES", "set variables from shell files"},
  {"fakeroot", 'f', "FAKEROOT", option::Kind::kFlag, kActions, "", "appear as root inside"},
  {"fusemount", 0, "FUSESPEC", option::Kind::kArray, kActions, "host:PROGRAM … DIR", "mount what a FUSE program of the host serves at DIR"},
  {"help", 'h', "", option::Kind::kFlag, kActions, "", "show this help"},
  {"home", 'H', "HOME", option::Kind::kText, kActions, "SRC[:DST]", "home directory"},
  {"hostname", 0, "HOSTNAME", option::Kind::kText, kActions, "NAME", "host name inside; implies --uts"},
  {"intel-hpu", 0, "INTEL_HPU", option::Kind::kFlag, kActions, "", "Gaudi devices of the host"},
  {"ipc", 'i', "IPC,UNSHARE_IPC", option::Kind::kFlag, kActions, "", "new IPC namespace"},
  {"keep-privs", 0, "KEEP_PRIVS", option::Kind::kFlag, kActions, "", "root only: keep all capabilities"},
  {"key-command", 0, "KEY_COMMAND", option::Kind::kText, kActions, "COMMAND", "command that prints the key of an encrypted image"},
  {"memory", 0, "MEMORY", option::Kind::kText, kActions, "SIZE", "limit of memory, such as 512m or 2G"},
  {"memory-reservation", 0, "MEMORY_RESERVATION", option::Kind::kText, kActions, "SIZE", "memory that others do not take away"},
  {"memory-swap", 0, "MEMORY_SWAP", option::Kind::kText, kActions, "SIZE", "limit of memory and swap together; -1 is none"},
  {"mount", 0, "MOUNT", option::Kind::kArray, kActions, "SPEC", "mount in CSV form: type=bind,source=…,destination=…[,ro]", {}, true},
  {"net", 'n', "NET,UNSHARE_NET", option::Kind::kFlag, kActions, "", "new network namespace, with --network fakeroot unless another is named"},
  {"netns-path", 0, "NETNS_PATH", option::Kind::kText, kActions, "PATH", "network namespace to join (root, or where the site allows it)"},
  {"network", 0, "NETWORK", option::Kind::kList, kActions, "NAME", "network of the new namespace: none, or fakeroot (pasta, slirp4netns)"},
  {"network-args", 0, "NETWORK_ARGS", option::Kind::kList, kActions, "ARGS", "portmap=HOST[:INSIDE]/tcp, hostport=PORT/tcp"},
  {"no-env", 0, "NOENV", option::Kind::kList, kActions, "NAMES", "host variables that are not imported"},
  {"no-eval", 0, "NO_EVAL", option::Kind::kFlag, kActions, "", "take values and arguments literally, without shell evaluation"},
  {"no-home", 0, "NO_HOME", option::Kind::kFlag, kActions, "", "do not mount the home directory"},
  {"no-init", 0, "NOSHIMINIT", option::Kind::kFlag, kActions, "", "with --pid: the payload itself is process 1"},
  {"no-mount", 0, "NO_MOUNT", option::Kind::kList, kActions, "NAMES", "leave out proc, sys, dev, devpts, home, tmp, hostfs, cwd, bind-paths or a path"},
  {"no-nv", 0, "NV_OFF,NO_NV", option::Kind::kFlag, kActions, "", ""},
  {"no-pid", 0, "NO_PID", option::Kind::kFlag, kForeground, "", "with --containall: keep the host's PID namespace"},
  {"no-privs", 0, "NO_PRIVS", option::Kind::kFlag, kActions, "", "drop all capabilities"},
  {"no-rocm", 0, "ROCM_OFF,NO_ROCM", option::Kind::kFlag, kActions, "", ""},
  {"no-share", 0, "NO_SHARE", option::Kind::kFlag, kActions, "", "own mount of the image, even where one exists"},
  {"no-umask", 0, "NO_UMASK", option::Kind::kFlag, kActions, "", "umask 0022 inside, not the caller's"},
  {"nv", 0, "NV", option::Kind::kFlag, kActions, "", "NVIDIA libraries and devices of the host"},
  {"oom-kill-disable", 0, "OOM_KILL_DISABLE", option::Kind::kFlag, kActions, "", ""},
  {"overlay", 'o', "OVERLAY,OVERLAYIMAGE", option::Kind::kList, kActions, "PATH[:ro]", "directory or squashfs image over the root"},
  {"passphrase", 0, "", option::Kind::kFlag, kActions, "", "ask for the passphrase of an encrypted image"},
  {"passphrase-fd", 0, "", option::Kind::kText, kActions, "N", "read the passphrase from descriptor N"},
  {"passphrase-file", 0, "", option::Kind::kText, kActions, "FILE", "read the passphrase from a file"},
  {"pem-path", 0, "", option::Kind::kText, kActions, "FILE", "private key of an encrypted image"},
  {"pid", 'p', "PID,UNSHARE_PID", option::Kind::kFlag, kForeground, "", "new PID namespace"},
  {"pid-file", 0, "PID_FILE", option::Kind::kText, kInstances, "FILE", "file to write the instance's process number to"},
  {"pids-limit", 0, "PIDS_LIMIT", option::Kind::kText, kActions, "NUMBER", "processes and threads at a time; -1 is no limit"},
  {"pwd", 0, "PWD,TARGET_PWD", option::Kind::kText, kForeground, "DIR", ""},
  {"rocm", 0, "ROCM", option::Kind::kFlag, kActions, "", "AMD libraries and devices of the host"},
  {"scratch", 'S', "SCRATCH,SCRATCHDIR", option::Kind::kList, kActions, "PATHS", "temporary directories inside"},
  {"security", 0, "SECURITY", option::Kind::kList, kActions, "seccomp:FILE", "filter system calls by an OCI profile"},
  {"shell", 's', "SHELL", option::Kind::kText, kShell, "PATH", "shell to start"},
  {"userns", 'u', "USERNS,UNSHARE_USERNS", option::Kind::kFlag, kActions, "", "user namespace, never the setuid helper"},
  {"uts", 0, "UTS,UNSHARE_UTS", option::Kind::kFlag, kActions, "", "new UTS (host name) namespace"},
  {"workdir", 'W', "WORKDIR", option::Kind::kText, kActions, "DIR", "with --contain: holds /tmp, /var/tmp, home and scratch directories"},
  {"writable", 'w', "WRITABLE", option::Kind::kFlag, kActions, "", "directory images: write to the image itself"},
  {"writable-tmpfs", 0, "WRITABLE_TMPFS", option::Kind::kFlag, kActions, "", "writable root, changes are lost at the end"},

  {"authfile", 0, "AUTH_FILE", option::Kind::kText, kActions, "FILE", "docker://, oras://: credentials for registries, in Docker's format"},
  {"disable-cache", 0, "DISABLE_CACHE", option::Kind::kFlag, kActions, "", "images that are fetched: neither use nor fill the cache"},
  {"docker-login", 0, "", option::Kind::kFlag, kActions, "", "docker://, oras://: ask for a user name and a password"},
  {"docker-password", 0, "DOCKER_PASSWORD", option::Kind::kText, kActions, "PASSWORD", ""},
  {"docker-username", 0, "DOCKER_USERNAME", option::Kind::kText, kActions, "NAME", ""},
  {"no-https", 0, "NOHTTPS,NO_HTTPS", option::Kind::kFlag, kActions, "", "images that are fetched: plain HTTP, and any certificate, will do"},
  {"nohttps", 0, "", option::Kind::kFlag, kActions, "", ""},
  {"verify-key", 0, "VERIFY_KEY", option::Kind::kText, kActions, "FILE", "docker://, oras://: only what this public key has signed (cosign)"},
  {"tmpdir", 0, "TMPDIR", option::Kind::kText, kActions, "DIR", "images that are fetched: directory for temporary files"},

  // Options of Apptainer that have no meaning here; each says what to do instead.
  {"allow-setuid", 0, "ALLOW_SETUID", option::Kind::kFlag, kActions, "", "", "set-user-ID programs never work inside; use --fakeroot where a program only checks for uid 0"},
  {"boot", 0, "BOOT", option::Kind::kFlag, kActions, "", "", "a container here is one payload, not a booted system"},
  {"dmtcp-launch", 0, "DMTCP_LAUNCH", option::Kind::kText, kActions, "", "", kCheckpoint},
  {"dmtcp-restart", 0, "DMTCP_RESTART", option::Kind::kText, kActions, "", "", kCheckpoint},
  {"docker-host", 0, "DOCKER_HOST", option::Kind::kText, kActions, "", "", {}, false, kNoDaemon},
  {"nvccli", 0, "NVCCLI", option::Kind::kFlag, kActions, "", "", "use --nv, or --device nvidia.com/gpu=all if the host has a CDI specification"},
  {"runscript-timeout", 0, "RUNSCRIPT_TIMEOUT", option::Kind::kText, kActions, "", "", {}, false, "commands of environment scripts have no time limit here"},
  {"sharens", 0, "SHARENS", option::Kind::kFlag, kActions, "", "", {}, false, "processes that start the same image share its mount and namespace anyway"},
  {"underlay", 0, "UNDERLAY", option::Kind::kFlag, kActions, "", "", {}, false, "missing mount points appear through overlay"},
  {"unsquash", 0, "UNSQUASH", option::Kind::kFlag, kActions, "", "", {}, false, "the image is served as it is"},
});
// clang-format on

Problem bad_value(std::string what, std::string cure = {}) {
  return Problem{.what = std::move(what), .cure = std::move(cure), .exit_code = kExitFatal};
}

Outcome<std::uint64_t> capability_set(const std::vector<std::string>& lists) {
  std::uint64_t set = 0;
  for (const std::string& list : lists) {
    POSTERN_TRY_ASSIGN(const std::uint64_t bits, config::parse_capabilities(list));
    set |= bits;
  }
  return set;
}

// One record of CSV that has quotes: "A=1,2",B=3. nullopt where a quote is out of place: then the
// text is taken as it stands.
std::optional<std::vector<std::string>> quoted_settings(std::string_view text) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool starts = fields.back().empty() && (i == 0 || text[i - 1] == ',');
    if (text[i] == '"' && quoted && i + 1 < text.size() && text[i + 1] == '"') {
      fields.back() += text[i++];
    } else if (text[i] == '"' && quoted) {
      quoted = false;
      if (i + 1 < text.size() && text[i + 1] != ',') {
        return std::nullopt;
      }
    } else if (text[i] == '"' && starts) {
      quoted = true;
    } else if (text[i] == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += text[i];
    }
  }
  return quoted ? std::nullopt : std::optional(std::move(fields));
}

// "A=1,B=2": pflag's string map. A comma inside a value belongs to it unless NAME= follows, so that
// A=1,2 works as typed.
void split_settings(std::string_view text, std::vector<std::string>& out) {
  if (text.starts_with('"') || text.find(",\"") != std::string_view::npos) {
    if (auto fields = quoted_settings(text)) {
      std::move(fields->begin(), fields->end(), std::back_inserter(out));
      return;
    }
  }
  const auto starts_setting = [](std::string_view rest) {
    const auto equals = rest.find('=');
    if (equals == 0 || equals == rest.npos) {
      return false;
    }
    return std::all_of(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(equals),
                       [](char c) {
                         return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                                (c >= '0' && c <= '9') || c == '_';
                       });
  };
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ',' && starts_setting(text.substr(i + 1))) {
      out.emplace_back(text.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  out.emplace_back(text.substr(begin));
}

Outcome<> environment_options(const option::Arguments& arguments, plan::Action& action) {
  for (const std::string& value : arguments.values("env")) {
    split_settings(value, action.set);
  }
  for (const std::string& setting : action.set) {
    if (const auto equals = setting.find('='); equals == 0 || equals == std::string::npos) {
      return Problem{
          .what = "invalid argument \"" + setting + "\" for \"--env\": NAME=VALUE is expected",
          .exit_code = kExitUsage};
    }
  }
  action.files = arguments.values("env-file");
  action.not_imported = arguments.values("no-env");
  return Ok{};
}

Outcome<> security_options(const option::Arguments& arguments, plan::Action& action) {
  for (const std::string& value : arguments.values("security")) {
    if (value.starts_with("seccomp:")) {
      action.seccomp = value.substr(8);
    } else if (value.starts_with("uid:") || value.starts_with("gid:")) {
      return bad_value("--security " + value + " is not available in postern",
                       "use --fakeroot to appear as root");
    } else {
      return bad_value("--security " + value + " is not available in postern",
                       "the labels of the caller's session apply; only seccomp:FILE can be set");
    }
  }
  POSTERN_TRY_ASSIGN(action.add_capabilities, capability_set(arguments.values("add-caps")));
  POSTERN_TRY_ASSIGN(action.drop_capabilities, capability_set(arguments.values("drop-caps")));
  action.no_privileges = arguments.given("no-privs");
  action.keep_privileges = arguments.given("keep-privs");
  return Ok{};
}

Outcome<> network_options(const option::Arguments& arguments, plan::Action& action) {
  action.network_arguments = arguments.values("network-args");
  if (!arguments.given("net") && !arguments.given("network")) {
    if (!action.network_arguments.empty()) {
      return bad_value("--network-args needs a network of its own", "add --net");
    }
    return Ok{};
  }
  const auto& networks = arguments.values("network");
  const std::string name = networks.empty() ? "fakeroot" : networks[0];
  static constexpr std::array<std::string_view, 3> kCarried = {"fakeroot", "pasta", "slirp4netns"};
  const bool carried = std::find(kCarried.begin(), kCarried.end(), name) != kCarried.end();
  if (networks.size() > 1) {
    return bad_value("a container has one network, not " + std::to_string(networks.size()),
                     "give one of none, fakeroot, pasta and slirp4netns");
  }
  if (!carried && name != "none") {
    return bad_value(
        "there is no network \"" + name + '"',
        "use --network fakeroot, which needs no privilege, or none; root can make "
        "others with `ip netns` and a CNI plugin, and start in them with --netns-path");
  }
  if (!carried && !action.network_arguments.empty()) {
    return bad_value("--network-args has nothing to act on with --network none",
                     "use --network fakeroot");
  }
  if (!action.network_namespace.empty()) {
    return bad_value("--network and --netns-path exclude each other", "give one of them");
  }
  action.network = carried ? plan::Network::kCarried : plan::Network::kNone;
  action.network_name = name;
  return Ok{};
}

Outcome<> namespace_options(const option::Arguments& arguments, plan::Action& action) {
  action.pid = arguments.given("pid");
  action.ipc = arguments.given("ipc");
  action.hostname = arguments.text("hostname");
  if (!action.hostname.empty() && !is_hostname(action.hostname)) {
    return bad_value("\"" + action.hostname + "\" is not a host name",
                     "use letters, digits, hyphens and dots, at most 63 characters");
  }
  action.uts = arguments.given("uts") || !action.hostname.empty();
  action.network_namespace = arguments.text("netns-path");
  POSTERN_TRY(network_options(arguments, action));
  action.user_namespace = arguments.given("userns");
  action.fakeroot = arguments.given("fakeroot");
  action.share = !arguments.given("no-share");
  return Ok{};
}

Outcome<> key_options(const option::Arguments& arguments, plan::Action& action) {
  action.ask_passphrase = arguments.given("passphrase");
  action.pem_path = arguments.text("pem-path");
  action.passphrase_file = arguments.text("passphrase-file");
  action.key_command = arguments.text("key-command");
  for (const char* name : {"disable-cache", "docker-login", "no-https", "nohttps"}) {
    if (arguments.given(name)) {
      action.fetch_options.push_back("--" + std::string(name));
    }
  }
  for (const char* name : {"authfile", "docker-username", "tmpdir", "verify-key"}) {
    if (arguments.given(name)) {
      action.fetch_options.push_back("--" + std::string(name) + "=" +
                                     std::string(arguments.text(name)));
    }
  }
  action.docker_password = arguments.text("docker-password");
  if (const auto text = arguments.text("passphrase-fd"); !text.empty()) {
    int fd = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fd);
    if (error != std::errc{} || end != text.data() + text.size() || fd < 0) {
      return Problem{.what = "invalid argument \"" + std::string(text) +
                             "\" for \"--passphrase-fd\": a descriptor number is expected",
                     .exit_code = kExitUsage};
    }
    action.passphrase_fd = fd;
  }
  return Ok{};
}

// An empty value on the command line is a value: a limit whose variable is not set.
std::optional<std::string> value_of(const option::Arguments& arguments, std::string_view name) {
  return arguments.given(name) ? std::optional(std::string(arguments.text(name))) : std::nullopt;
}

plan::ResourceWish resource_options(const option::Arguments& arguments) {
  return {.memory = value_of(arguments, "memory"),
          .memory_swap = value_of(arguments, "memory-swap"),
          .memory_reservation = value_of(arguments, "memory-reservation"),
          .cpus = value_of(arguments, "cpus"),
          .cpu_shares = value_of(arguments, "cpu-shares"),
          .cpuset_cpus = value_of(arguments, "cpuset-cpus"),
          .cpuset_mems = value_of(arguments, "cpuset-mems"),
          .pids_limit = value_of(arguments, "pids-limit"),
          .blkio_weight = value_of(arguments, "blkio-weight"),
          .blkio_weight_devices = arguments.values("blkio-weight-device"),
          .oom_kill_disable = arguments.given("oom-kill-disable"),
          .file = value_of(arguments, "apply-cgroups")};
}

void mount_options(const option::Arguments& arguments, plan::Action& action) {
  action.binds = arguments.values("bind");
  action.mounts = arguments.values("mount");
  action.no_mount = arguments.values("no-mount");
  action.overlays = arguments.values("overlay");
  action.scratch = arguments.values("scratch");
  action.fuse_mounts = arguments.values("fusemount");
  action.libraries = arguments.values("containlibs");
  action.dns = arguments.values("dns");
  action.home = arguments.text("home");
  action.workdir = arguments.text("workdir");
  action.cwd = arguments.given("cwd") ? arguments.text("cwd") : arguments.text("pwd");
  action.no_home = arguments.given("no-home");
  action.contain = arguments.given("contain");
  action.writable = arguments.given("writable");
  action.writable_tmpfs = arguments.given("writable-tmpfs");
  action.no_nv = arguments.given("no-nv");
  action.no_rocm = arguments.given("no-rocm");
  action.nv = arguments.given("nv") && !action.no_nv;
  action.rocm = arguments.given("rocm") && !action.no_rocm;
  action.intel_hpu = arguments.given("intel-hpu");
  action.compat32 = arguments.given("compat32");
  action.devices = arguments.values("device");
  action.cdi_directories = arguments.values("cdi-dirs");
}

}  // namespace

std::span<const option::Option> action_options() {
  return kOptions;
}

Outcome<plan::Action> to_action(const option::Arguments& arguments) {
  plan::Action action;
  mount_options(arguments, action);
  POSTERN_TRY(environment_options(arguments, action));
  POSTERN_TRY(namespace_options(arguments, action));
  POSTERN_TRY(security_options(arguments, action));
  POSTERN_TRY(key_options(arguments, action));
  action.resources = resource_options(arguments);
  action.clean_environment = arguments.given("cleanenv");
  action.no_eval = arguments.given("no-eval");
  action.no_init = arguments.given("no-init");
  action.no_umask = arguments.given("no-umask");
  action.app = arguments.text("app");
  action.shell = arguments.text("shell");

  for (const std::string& address : action.dns) {
    std::array<unsigned char, sizeof(in6_addr)> bytes{};
    if (::inet_pton(AF_INET, address.c_str(), bytes.data()) != 1 &&
        ::inet_pton(AF_INET6, address.c_str(), bytes.data()) != 1) {
      return bad_value("--dns: \"" + address + "\" is not an IP address",
                       "give addresses of name servers, separated by commas");
    }
  }

  const bool compat = arguments.given("compat");
  if (compat || arguments.given("containall")) {
    action.contain = true;
    action.pid = true;
    action.ipc = true;
    action.clean_environment = true;
  }
  if (arguments.given("no-pid")) {
    action.pid = false;
  }
  if (compat) {
    action.no_init = true;
    action.no_umask = true;
    action.no_eval = true;
    action.writable_tmpfs = true;
  }
  return action;
}

}  // namespace postern::cli
