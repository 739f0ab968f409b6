// What this host offers, as found out: no judgement. Namespaces, FUSE and overlay are not guessed
// from settings but tried, in children that leave nothing behind.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace postern::doctor {

// What was tried last, and its errno; 0 = all of it worked.
struct Attempt {
  std::string step;
  int err = 0;
};

inline constexpr const char* kOpeningFuse = "opening /dev/fuse";

struct HelperFacts {
  std::string path;
  bool present = false;
  bool owned_by_root = false;
  bool setuid = false;  // the mode bit
  bool nosuid_mount = false;
  bool writable_by_others = false;
  bool judge_present = false;
};

struct Facts {
  std::string release;  // uname(2)
  unsigned kernel_major = 0;
  unsigned kernel_minor = 0;
  std::uint32_t uid = 0;  // effective
  std::string user;       // empty where the uid has no name
  // /proc/sys; nothing where the kernel has no such setting.
  std::optional<long> max_user_namespaces;
  std::optional<long> unprivileged_userns_clone;
  std::optional<long> apparmor_restricts_userns;
  Attempt user_namespace;           // create one, map ids, mount a tmpfs
  Attempt user_namespace_of_users;  // the same by somebody who is not root
  Attempt fuse;                     // open /dev/fuse in one and mount it
  Attempt overlay;                  // overlay of tmpfs directories in one
  std::uint64_t subuids = 0;        // ids that /etc/subuid gives the caller
  std::uint64_t subgids = 0;
  bool newuidmap = false;  // found, and privileged
  bool newgidmap = false;
  bool cgroup_v2 = false;         // /sys/fs/cgroup is the unified hierarchy
  bool cgroup_delegated = false;  // the caller may make groups below its own
  HelperFacts helper;
  std::string judge_user;
  bool judge_user_exists = false;
  std::string config_path;
  bool config_present = false;
  std::string config_fault;  // why the site's policy cannot be relied on
  bool suid_enabled = false;
  bool audit_required = false;  // postern.toml: no start without a line in the log
  bool log_daemon = false;      // one listens on /dev/log
  bool list_active = false;     // ecl.toml
  bool list_asks_for_seals = false;
  bool device_mapper = false;
  bool loop_devices = false;
  bool root_is_initramfs = false;         // mounted on nothing
  bool proc_hides_others = false;         // proc(5): hidepid
  bool proc_has_only_pids = false;        // proc(5): subset=pid
  std::vector<std::string> interpreters;  // architectures that binfmt_misc emulates
};

Facts gather();

// Processes of postern-squashfs on this host, of all users that /proc shows.
unsigned count_image_servers();

// Major and minor of "6.1.0-18-amd64"; 0 and 0 where it is something else.
std::pair<unsigned, unsigned> kernel_version(std::string_view release);

// The options of /proc and what "/" is, as mountinfo (proc(5)) says.
void mount_facts(std::string_view mountinfo, Facts& facts);

// The tries, one by one.
Attempt try_user_namespace();
// By the caller, or by nobody (65534) where the caller is root.
Attempt try_user_namespace_of_users();
Attempt try_fuse();
Attempt try_overlay();

}  // namespace postern::doctor
