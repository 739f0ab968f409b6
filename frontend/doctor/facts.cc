#include "frontend/doctor/facts.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <tuple>

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "frontend/system/initramfs.h"
#include "frontend/system/libexec.h"
#include "frontend/system/subids.h"
#include "policy/accounts/accounts.h"
#include "policy/config/trusted_file.h"
#include "policy/ecl/ecl.h"
#include "policy/image/image.h"
#include "protocol/base/unique_fd.h"

namespace postern::doctor {
namespace {

std::string contents(const char* path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
bool number(std::string_view text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

std::optional<long> setting(const char* path) {
  std::string text = contents(path);
  text.erase(text.find_last_not_of(" \n") + 1);
  long value = 0;
  return number(text, value) ? std::optional(value) : std::nullopt;
}

// --- the tries. In the child only system calls: it is a copy of a program that may have threads.

enum Step : std::uint8_t {
  kNone,
  kUnshare,
  kMap,
  kTmpfs,
  kFuseOpen,
  kFuseMount,
  kDirectories,
  kOverlay,
  kDrop
};

constexpr std::array<const char*, 9> kStepNames{
    "",
    "creating a user and mount namespace",
    "mapping the caller's ids into it",
    "mounting a tmpfs in it",
    kOpeningFuse,
    "mounting FUSE in a user namespace",
    "making directories on a tmpfs",
    "mounting an overlay in a user namespace",
    "becoming an ordinary user",
};

struct ChildResult {
  Step step;
  int err;
};

ChildResult failed(Step step) {
  return {step, errno};
}

bool put(const char* path, const char* text, std::size_t size) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  const bool written = ::write(fd, text, size) == static_cast<ssize_t>(size);
  const int saved = errno;
  ::close(fd);
  errno = saved;
  return written;
}

// Root in a namespace of its own with a private tmpfs on /tmp (on / where there is no /tmp).
ChildResult enter() {
  char map[64];
  const std::uint32_t uid = ::geteuid();
  const std::uint32_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return failed(kUnshare);
  }
  // Kernels before 3.19 have no setgroups file; without it the map is refused if it must be.
  (void)put("/proc/self/setgroups", "deny", 4);
  const auto write_map = [&](const char* path, std::uint32_t id) {
    const char* const end = std::to_chars(map + 2, map + 40, id).ptr;
    map[0] = '0';
    map[1] = ' ';
    char* tail = map + (end - map);
    *tail++ = ' ';
    *tail++ = '1';
    return put(path, map, static_cast<std::size_t>(tail - map));
  };
  if (!write_map("/proc/self/uid_map", uid) || !write_map("/proc/self/gid_map", gid)) {
    return failed(kMap);
  }
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      (::mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m") != 0 &&
       errno != ENOENT)) {
    return failed(kTmpfs);
  }
  return {kNone, 0};
}

ChildResult mount_fuse() {
  const int fuse = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fuse < 0) {
    return failed(kFuseOpen);
  }
  // mount(2) of FUSE does not wait for the server; the connection dies with this process.
  char options[96] = "rootmode=40000,user_id=0,group_id=0,fd=";
  std::size_t length = 0;
  while (options[length] != '\0') {
    ++length;
  }
  *std::to_chars(options + length, options + sizeof options - 1, fuse).ptr = '\0';
  if (::mount("postern-doctor", "/tmp", "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
    return failed(kFuseMount);
  }
  return {kNone, 0};
}

ChildResult mount_overlay() {
  for (const char* path : {"/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"}) {
    if (::mkdir(path, 0700) != 0) {
      return failed(kDirectories);
    }
  }
  if (::mount("overlay", "/tmp/merged", "overlay", 0,
              "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr") != 0) {
    return failed(kOverlay);
  }
  return {kNone, 0};
}

constexpr uid_t kNobody = 65534;

// What root may do says nothing about others.
ChildResult become_user() {
  if (::geteuid() == 0 && (::setresgid(kNobody, kNobody, kNobody) != 0 ||
                           ::setresuid(kNobody, kNobody, kNobody) != 0)) {
    return failed(kDrop);
  }
  // Dropping made the process undumpable, and its files in /proc root's: uid_map could not be
  // opened.
  (void)::prctl(PR_SET_DUMPABLE, 1);
  return {kNone, 0};
}

Attempt in_child(ChildResult (*first)(), ChildResult (*more)()) {
  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return {"making a pipe", errno};
  }
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) {
    return {"starting a process", errno};
  }
  if (pid == 0) {
    ChildResult result = first != nullptr ? first() : ChildResult{kNone, 0};
    if (result.err == 0) {
      result = enter();
    }
    if (result.err == 0 && more != nullptr) {
      result = more();
    }
    (void)!::write(writing.get(), &result, sizeof result);
    ::_exit(0);
  }
  writing.reset();
  ChildResult result{kNone, ECHILD};
  const ssize_t n = ::read(reading.get(), &result, sizeof result);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (n != ssize_t(sizeof result)) {
    return {"trying in a process of its own, which was killed", ECHILD};
  }
  return {kStepNames[result.step], result.err};
}

// --- files

bool privileged(const char* name) {
  for (const char* directory : {"/usr/bin/", "/usr/local/bin/", "/bin/"}) {
    const std::string path = std::string(directory) + name;
    struct stat status{};
    struct statvfs mount{};
    if (::stat(path.c_str(), &status) == 0) {
      if (::statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0) {
        return false;
      }
      return (status.st_uid == 0 && (status.st_mode & S_ISUID) != 0) ||
             ::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
    }
  }
  return false;
}

HelperFacts helper_facts() {
  HelperFacts h;
  h.path = system::libexec_program("postern-helper");
  struct stat status{};
  if (::stat(h.path.c_str(), &status) == 0) {
    h.present = true;
    h.owned_by_root = status.st_uid == 0;
    h.setuid = (status.st_mode & S_ISUID) != 0;
    h.writable_by_others = (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
    struct statvfs mount{};
    h.nosuid_mount = ::statvfs(h.path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0;
  }
  h.judge_present = ::access(system::libexec_program("postern-judge").c_str(), X_OK) == 0;
  return h;
}

// The judge denies every start if one of these files is not as it must be, as with postern.toml.
void list_facts(Facts& facts) {
  const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const std::string file = POSTERN_CONFDIR "/ecl.toml";
  const auto text = config::read_trusted(root.get(), file);
  if (!text) {
    facts.config_fault = text.error().problem.what;
    return;
  }
  const auto list = ecl::parse_ecl(*text, file);
  if (!list) {
    facts.config_fault = list.error().what;
    return;
  }
  facts.list_active = list->activated;
  facts.list_asks_for_seals =
      std::any_of(list->groups.begin(), list->groups.end(),
                  [](const ecl::Group& group) { return group.binding == ecl::Binding::kSealed; });
}

bool has_log_daemon() {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = "/dev/log"};
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  // SAFETY: the cast is the interface of connect(2).
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

void site_facts(Facts& facts) {
  facts.config_path = POSTERN_CONFDIR "/postern.toml";
  facts.judge_user = POSTERN_JUDGE_USER;
  facts.judge_user_exists = accounts::find_user(facts.judge_user).has_value();
  facts.config_present = ::access(facts.config_path.c_str(), F_OK) == 0;
  if (facts.config_present) {
    const auto site = config::load_trusted(facts.config_path);
    if (site) {
      facts.suid_enabled = site->suid_enabled;
      facts.audit_required = site->audit_required;
      list_facts(facts);
    } else {
      facts.config_fault = site.error().problem.what;
    }
  }
  facts.log_daemon = has_log_daemon();
}

void cgroup_facts(Facts& facts) {
  struct statfs mount{};
  facts.cgroup_v2 = ::statfs("/sys/fs/cgroup", &mount) == 0 && mount.f_type == CGROUP2_SUPER_MAGIC;
  if (!facts.cgroup_v2) {
    return;
  }
  std::string own = contents("/proc/self/cgroup");  // "0::/user.slice/…\n"
  const std::size_t start = own.find("0::");
  if (start != std::string::npos) {
    own = own.substr(start + 3, own.find('\n', start) - start - 3);
    facts.cgroup_delegated = ::access(("/sys/fs/cgroup" + own).c_str(), W_OK) == 0;
  }
}

}  // namespace

unsigned count_image_servers() {
  unsigned count = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    const bool is_process = name.find_first_not_of("0123456789") == name.npos;
    // Of a process that ends meanwhile there is nothing. The kernel cuts names at 15 bytes.
    count +=
        is_process && contents(("/proc/" + name + "/comm").c_str()) == "postern-squashf\n" ? 1 : 0;
  }
  return count;
}

std::pair<unsigned, unsigned> kernel_version(std::string_view release) {
  unsigned major = 0;
  unsigned minor = 0;
  const char* const end = release.data() + release.size();
  const auto first = std::from_chars(release.data(), end, major);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != '.' ||
      std::from_chars(first.ptr + 1, end, minor).ec != std::errc{}) {
    return {0, 0};
  }
  return {major, minor};
}

// A line: id, parent, device, root, mount point, options, optional fields, "-", type, source, and
// the options of the file system. The last line of a mount point is the mount that is seen there.
void mount_facts(std::string_view mountinfo, Facts& facts) {
  facts.root_is_initramfs = system::has_initramfs_root(mountinfo);
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    std::string place;
    for (int i = 0; i < 5 && words >> place; ++i) {
    }
    while (words >> word && word != "-") {
    }
    std::string type;
    std::string source;
    std::string options;
    words >> type >> source >> options;
    if (place == "/proc" && type == "proc") {
      const std::size_t hidden = options.find("hidepid=");
      facts.proc_hides_others = hidden != std::string::npos && options[hidden + 8] != '0' &&
                                options.compare(hidden + 8, 3, "off") != 0;
      facts.proc_has_only_pids = options.find("subset=pid") != std::string::npos;
    }
  }
}

Attempt try_user_namespace() {
  return in_child(nullptr, nullptr);
}

Attempt try_user_namespace_of_users() {
  return in_child(become_user, nullptr);
}

Attempt try_fuse() {
  return in_child(nullptr, mount_fuse);
}

Attempt try_overlay() {
  return in_child(nullptr, mount_overlay);
}

Facts gather() {
  Facts f;
  struct utsname names{};
  if (::uname(&names) == 0) {
    f.release = names.release;
    std::tie(f.kernel_major, f.kernel_minor) = kernel_version(f.release);
  }
  f.uid = ::geteuid();
  if (auto user = accounts::find_user(f.uid)) {
    f.user = std::move(user->name);
  }
  f.max_user_namespaces = setting("/proc/sys/user/max_user_namespaces");
  f.unprivileged_userns_clone = setting("/proc/sys/kernel/unprivileged_userns_clone");
  f.apparmor_restricts_userns = setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
  f.user_namespace = try_user_namespace();
  f.user_namespace_of_users = f.uid == 0 ? try_user_namespace_of_users() : f.user_namespace;
  f.fuse = try_fuse();
  f.overlay = try_overlay();
  const system::SubordinateIds ids = system::subordinate_ids(f.user, f.uid, ::getegid());
  f.subuids = system::count_of(ids.users);
  f.subgids = system::count_of(ids.groups);
  f.newuidmap = privileged("newuidmap");
  f.newgidmap = privileged("newgidmap");
  cgroup_facts(f);
  f.helper = helper_facts();
  site_facts(f);
  // In sysfs: a /proc with subset=pid has neither misc nor devices.
  f.device_mapper = ::access("/sys/class/misc/device-mapper", F_OK) == 0;
  f.loop_devices = ::access("/sys/class/misc/loop-control", F_OK) == 0;
  mount_facts(contents("/proc/self/mountinfo"), f);
  for (const sif::Architecture a : image::interpreters("/proc/sys/fs/binfmt_misc")) {
    f.interpreters.emplace_back(sif::name_of(a));
  }
  return f;
}

}  // namespace postern::doctor
