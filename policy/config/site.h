// SiteConfig: postern.toml, the site's settings. In suid mode the judge enforces them; in
// user-namespace mode the frontend follows them, and they are advisory.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "policy/config/toml_document.h"
#include "policy/problem.h"

namespace postern::config {

// Which images the kernel may mount as squashfs in suid mode.
enum class KernelMount : std::uint8_t { kNever, kTrusted, kLimited, kAny };

// The /dev of a container that did not ask for containment.
enum class DevMount : std::uint8_t { kNo, kMinimal, kYes };

using List = std::vector<std::string>;

// The number of rows in kKeys.
inline constexpr std::size_t kKeyCount = 43;

// One member for each key, named table_key. The initial values are the defaults: those of a missing
// file in user-namespace mode, and of every key that a file leaves out.
struct SiteConfig {
  bool suid_enabled = false;

  bool audit_required = false;
  bool audit_user_namespaces = false;

  bool allow_sif = true;
  bool allow_squashfs = true;
  bool allow_directory = true;
  bool allow_encrypted = true;
  bool allow_overlay = true;
  bool allow_fusemount = true;
  bool allow_user_binds = true;
  bool allow_user_namespace = true;
  bool allow_pid_namespace = true;
  bool allow_ipc_namespace = true;
  bool allow_uts_namespace = true;
  bool allow_net_namespace = true;
  bool allow_cgroup_namespace = true;
  List allow_netns_paths;
  List allow_netns_users;
  List allow_netns_groups;

  List limit_owners;
  List limit_groups;
  List limit_paths;

  KernelMount kernel_mount_squashfs = KernelMount::kTrusted;
  bool kernel_mount_encrypted = true;
  List kernel_mount_trusted_paths;

  bool mount_proc = true;
  bool mount_sys = true;
  DevMount mount_dev = DevMount::kYes;
  bool mount_devpts = true;
  bool mount_home = true;
  bool mount_tmp = true;
  bool mount_hostfs = false;
  List mount_binds = {"/etc/localtime", "/etc/hosts"};  // SOURCE or SOURCE:TARGET

  std::uint64_t session_max_size_mib = 64;

  bool config_passwd = true;
  bool config_group = true;
  bool config_resolv_conf = true;

  bool nv_always = false;
  bool rocm_always = false;

  std::uint64_t build_mksquashfs_processors = 0;  // 0 = all

  std::uint64_t crypt_max_memory_kib = 4194304;   // of one key slot's Argon2
  std::uint64_t crypt_max_iterations = 10000000;  // PBKDF2's, or Argon2's passes
  std::uint64_t crypt_max_threads = 4;

  // Line of each row of kKeys in the file, 0 where the file does not set it.
  std::array<std::uint32_t, kKeyCount> lines{};
};

// The member that a key sets.
using Member = std::variant<bool SiteConfig::*,
                            std::uint64_t SiteConfig::*,
                            std::string SiteConfig::*,
                            List SiteConfig::*,
                            KernelMount SiteConfig::*,
                            DevMount SiteConfig::*>;

struct Key {
  std::string_view table;
  std::string_view name;
  Member member;
  std::string_view directive;  // of apptainer.conf; empty where it has none
  std::string_view meaning;
};

// Every key, in the order in which the file is written.
[[nodiscard]] std::span<const Key, kKeyCount> keys() noexcept;

// The row of "table.name", nullptr where there is none.
[[nodiscard]] const Key* find_key(std::string_view path) noexcept;

// The line that sets "table.name", 0 where the file leaves it out or there is no such key.
[[nodiscard]] std::uint32_t line_of(const SiteConfig& site, std::string_view path) noexcept;

// The value of a key as TOML writes it.
[[nodiscard]] std::string value_text(const SiteConfig& site, const Key& key);

// Sets a key. Problem without a place: the wrong type, or a value out of its range.
[[nodiscard]] Outcome<> set_value(SiteConfig& site, const Key& key, TomlValue value);

// A whole file. Errors: "FILE:LINE:COLUMN: what", also for tables and keys that do not exist.
[[nodiscard]] Outcome<SiteConfig> parse_site_config(std::string_view text, std::string file);

// The file at `path`, whoever owns it; the defaults where it does not exist. For user-namespace
// mode and for messages: what must hold is read with load_trusted (policy/config/trusted_file.h).
[[nodiscard]] Outcome<SiteConfig> load_site_config(const std::string& path);

}  // namespace postern::config
