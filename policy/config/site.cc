#include "policy/config/site.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "policy/config/read_file.h"
#include "protocol/limits.h"

namespace postern::config {
namespace {

using S = SiteConfig;

// clang-format off
constexpr std::array<Key, kKeyCount> kKeys = {{
  {"suid", "enabled", &S::suid_enabled, "allow setuid",
   "run containers through the setuid helper; without it, user namespaces"},

  {"audit", "required", &S::audit_required, "",
   "refuse setuid mode also where no syslog daemon listens; where one does, its line is always required"},
  {"audit", "user-namespaces", &S::audit_user_namespaces, "",
   "log starts in user-namespace mode as well; these entries are the caller's own word"},

  {"allow", "sif", &S::allow_sif, "allow container sif", "unencrypted SIF images"},
  {"allow", "squashfs", &S::allow_squashfs, "allow container squashfs", "bare squashfs images"},
  {"allow", "directory", &S::allow_directory, "allow container dir", "directories (sandboxes)"},
  {"allow", "encrypted", &S::allow_encrypted, "allow container encrypted", "encrypted SIF images"},
  {"allow", "overlay", &S::allow_overlay, "enable overlay", "--overlay and --writable-tmpfs"},
  {"allow", "fusemount", &S::allow_fusemount, "enable fusemount", "--fusemount"},
  {"allow", "user-binds", &S::allow_user_binds, "user bind control",
   "binds that the user chooses: --bind, --mount, --home, --workdir, --scratch, the current directory"},
  {"allow", "user-namespace", &S::allow_user_namespace, "allow user ns", "--userns and --fakeroot"},
  {"allow", "pid-namespace", &S::allow_pid_namespace, "allow pid ns", "--pid"},
  {"allow", "ipc-namespace", &S::allow_ipc_namespace, "allow ipc ns", "--ipc"},
  {"allow", "uts-namespace", &S::allow_uts_namespace, "allow uts ns", "--uts and --hostname"},
  {"allow", "net-namespace", &S::allow_net_namespace, "", "--net"},
  {"allow", "cgroup-namespace", &S::allow_cgroup_namespace, "", "a cgroup namespace of its own"},
  {"allow", "netns-paths", &S::allow_netns_paths, "allow netns paths",
   "network namespaces that --netns-path may join"},
  {"allow", "netns-users", &S::allow_netns_users, "allow net users", "users who may join them"},
  {"allow", "netns-groups", &S::allow_netns_groups, "allow net groups", "groups whose members may join them"},

  {"limit", "owners", &S::limit_owners, "limit container owners",
   "only images that one of these users owns; empty = no limit"},
  {"limit", "groups", &S::limit_groups, "limit container groups",
   "only images that belong to one of these groups; empty = no limit"},
  {"limit", "paths", &S::limit_paths, "limit container paths",
   "only images below one of these directories; empty = no limit"},

  {"kernel-mount", "squashfs", &S::kernel_mount_squashfs, "allow setuid-mount squashfs",
   "which images the kernel mounts in suid mode: \"trusted\", \"limited\", \"any\" or \"never\""},
  {"kernel-mount", "encrypted", &S::kernel_mount_encrypted, "allow setuid-mount encrypted",
   "use dm-crypt for encrypted images that the kernel may mount"},
  {"kernel-mount", "trusted-paths", &S::kernel_mount_trusted_paths, "",
   "directories whose images are trusted where the caller cannot write them"},

  {"mount", "proc", &S::mount_proc, "mount proc", "/proc"},
  {"mount", "sys", &S::mount_sys, "mount sys", "/sys"},
  {"mount", "dev", &S::mount_dev, "mount dev", "/dev: \"yes\" (the host's), \"minimal\" or \"no\""},
  {"mount", "devpts", &S::mount_devpts, "mount devpts", "a devpts of its own in a minimal /dev"},
  {"mount", "home", &S::mount_home, "mount home", "the home directory"},
  {"mount", "tmp", &S::mount_tmp, "mount tmp", "/tmp and /var/tmp"},
  {"mount", "hostfs", &S::mount_hostfs, "mount hostfs", "every file system that the host has mounted"},
  {"mount", "binds", &S::mount_binds, "bind path", "SOURCE or SOURCE:TARGET, bound in every container"},

  {"session", "max-size-mib", &S::session_max_size_mib, "sessiondir max size",
   "size in MiB of the private tmpfs that holds what a container writes to its scratch layer"},

  {"config", "passwd", &S::config_passwd, "config passwd", "add the user to the container's /etc/passwd"},
  {"config", "group", &S::config_group, "config group", "add the user's groups to the container's /etc/group"},
  {"config", "resolv-conf", &S::config_resolv_conf, "config resolv_conf", "use the host's /etc/resolv.conf"},

  {"nv", "always", &S::nv_always, "always use nv", "as if --nv were given"},
  {"rocm", "always", &S::rocm_always, "always use rocm", "as if --rocm were given"},

  {"build", "mksquashfs-processors", &S::build_mksquashfs_processors, "mksquashfs procs",
   "processors that a build uses; 0 = all"},

  {"crypt", "max-memory-kib", &S::crypt_max_memory_kib, "",
   "memory in KiB that unlocking an image may take"},
  {"crypt", "max-iterations", &S::crypt_max_iterations, "", "iterations that unlocking an image may take"},
  {"crypt", "max-threads", &S::crypt_max_threads, "", "threads that unlocking an image may take"},
}};
// clang-format on

// Keys of earlier releases, and why they are gone: a file that sets one says something that is not
// done, so it is refused. One value says what is done anyway.
struct Gone {
  std::string_view table;
  std::string_view name;
  std::string_view taken;
  std::string_view why;
  std::string_view cure;
};

constexpr std::array kGone = std::to_array<Gone>({
    {"build", "mksquashfs-memory", "\"\"",
     "the memory of a build follows from the number of its processors",
     "remove the key; build.mksquashfs-processors bounds both"},
    {"cgroups", "systemd", "false",
     "systemd is not asked for control groups: one that belongs to the user is needed",
     "remove the key; `systemd-run --user --scope -p Delegate=yes postern …` or a batch system "
     "gives users a group"},
    {"forbid", "bind-targets", "[]",
     "it compared the text of a target, and the mount follows the links of the image",
     "remove the key; allow.user-binds = false forbids all binds of users"},
    {"mount", "slave", "true",
     "later mounts of the host always appear in containers, and those of a container never outside",
     "remove the key"},
});

struct Range {
  std::string_view table;
  std::string_view name;
  std::uint64_t least;
  std::uint64_t most;
};

constexpr std::array kRanges = std::to_array<Range>({
    {"session", "max-size-mib", 1, kMaxSessionBytes / (1024 * 1024)},
    {"crypt", "max-memory-kib", 32, 4194304},  // libcryptsetup's own bounds for Argon2
    {"crypt", "max-iterations", 1000, 4294967295},
    {"crypt", "max-threads", 1, 4},
});

template <class Enum>
struct Choice {
  std::string_view word;
  Enum value;
};

constexpr std::array kKernelMounts = std::to_array<Choice<KernelMount>>({
    {"trusted", KernelMount::kTrusted},
    {"limited", KernelMount::kLimited},
    {"any", KernelMount::kAny},
    {"never", KernelMount::kNever},
});
constexpr std::array kDevMounts = std::to_array<Choice<DevMount>>({
    {"yes", DevMount::kYes},
    {"minimal", DevMount::kMinimal},
    {"no", DevMount::kNo},
});

constexpr const auto& choices(KernelMount /*tag*/) {
  return kKernelMounts;
}

constexpr const auto& choices(DevMount /*tag*/) {
  return kDevMounts;
}

constexpr bool keys_are_unique() {
  for (std::size_t i = 0; i < kKeys.size(); ++i) {
    for (std::size_t j = i + 1; j < kKeys.size(); ++j) {
      if (kKeys[i].table == kKeys[j].table && kKeys[i].name == kKeys[j].name) {
        return false;
      }
    }
  }
  return true;
}

constexpr bool keys_are_complete() {
  for (const Key& key : kKeys) {
    if (key.table.empty() || key.name.empty() || key.meaning.empty()) {
      return false;
    }
  }
  return true;
}

static_assert(keys_are_unique(), "a key has one row");
static_assert(keys_are_complete(), "a row has a table, a name and a meaning");

Problem wrong_type(std::string_view wanted) {
  return Problem{.what = "the value must be " + std::string(wanted)};
}

Outcome<> assign(bool& member, const Key& /*key*/, TomlValue& value) {
  const bool* given = std::get_if<bool>(&value);
  if (given == nullptr) {
    return wrong_type("true or false");
  }
  member = *given;
  return Ok{};
}

Outcome<> assign(std::uint64_t& member, const Key& key, TomlValue& value) {
  Range range{key.table, key.name, 0, std::numeric_limits<std::int64_t>::max()};
  for (const Range& row : kRanges) {
    if (row.table == key.table && row.name == key.name) {
      range = row;
    }
  }
  const std::int64_t* given = std::get_if<std::int64_t>(&value);
  if (given == nullptr || *given < 0 || static_cast<std::uint64_t>(*given) < range.least ||
      static_cast<std::uint64_t>(*given) > range.most) {
    return wrong_type("an integer from " + std::to_string(range.least) + " to " +
                      std::to_string(range.most));
  }
  member = static_cast<std::uint64_t>(*given);
  return Ok{};
}

Outcome<> assign(std::string& member, const Key& /*key*/, TomlValue& value) {
  std::string* given = std::get_if<std::string>(&value);
  if (given == nullptr) {
    return wrong_type("a string");
  }
  member = std::move(*given);
  return Ok{};
}

// Keys whose entries are paths: a relative one would mean something else in every directory.
bool holds_paths(const Key& key) {
  return key.name.ends_with("paths") || key.name == "binds";
}

Outcome<> assign(List& member, const Key& key, TomlValue& value) {
  List* given = std::get_if<List>(&value);
  if (given == nullptr) {
    return wrong_type("a list of strings");
  }
  for (const std::string& entry : *given) {
    if (entry.empty() || entry.find('\0') != std::string::npos) {
      return Problem{.what = "an entry of the list is empty or holds a NUL character"};
    }
    if (holds_paths(key) && entry.front() != '/') {
      return Problem{.what = "\"" + entry + "\" is not an absolute path"};
    }
  }
  member = std::move(*given);
  return Ok{};
}

template <class Enum>
  requires std::is_enum_v<Enum>
Outcome<> assign(Enum& member, const Key& /*key*/, TomlValue& value) {
  const std::string* given = std::get_if<std::string>(&value);
  std::string words;
  for (const auto& choice : choices(Enum{})) {
    if (given != nullptr && *given == choice.word) {
      member = choice.value;
      return Ok{};
    }
    words += words.empty() ? "" : ", ";
    words += quote_toml(choice.word);
  }
  return wrong_type("one of " + words);
}

std::string text_of(bool value) {
  return value ? "true" : "false";
}

std::string text_of(std::uint64_t value) {
  return std::to_string(value);
}

std::string text_of(const std::string& value) {
  return quote_toml(value);
}

std::string text_of(const List& value) {
  std::string text = "[";
  for (const std::string& entry : value) {
    text += text.size() > 1 ? ", " : "";
    text += quote_toml(entry);
  }
  return text + "]";
}

template <class Enum>
  requires std::is_enum_v<Enum>
std::string text_of(Enum value) {
  for (const auto& choice : choices(Enum{})) {
    if (choice.value == value) {
      return quote_toml(choice.word);
    }
  }
  return "\"\"";
}

const Key* find_row(std::string_view table, std::string_view name) {
  const auto* row = std::find_if(kKeys.begin(), kKeys.end(), [&](const Key& key) {
    return key.table == table && key.name == name;
  });
  return row == kKeys.end() ? nullptr : row;
}

// "did you mean" is for a near miss: the other tables that have a key of this name.
std::string cure_for_unknown(const std::string& table, const std::string& name) {
  for (const Key& key : kKeys) {
    if (key.name == name && key.table != table) {
      return "the key \"" + name + "\" belongs to [" + std::string(key.table) + "]";
    }
  }
  return "postern.toml(5) lists all keys";
}

Outcome<> check_table(const TomlDocument& document, const TomlTable& table) {
  const auto is_its = [&](const auto& row) { return row.table == table.name; };
  const bool known = std::any_of(kKeys.begin(), kKeys.end(), is_its) ||
                     std::any_of(kGone.begin(), kGone.end(), is_its);
  if (table.is_element || (!known && !table.name.empty())) {
    return problem_at(document.file, table.place, "there is no table [" + table.name + "]",
                      "postern.toml(5) lists all tables");
  }
  return Ok{};
}

Outcome<> set_entry(SiteConfig& site,
                    const TomlDocument& document,
                    const TomlTable& table,
                    TomlEntry& entry) {
  for (const Gone& row : kGone) {
    if (row.table == table.name && row.name == entry.key) {
      const std::string given = std::visit(
          [](const auto& value) {
            if constexpr (std::is_same_v<decltype(value), const std::int64_t&>) {
              return std::to_string(value);
            } else {
              return text_of(value);
            }
          },
          entry.value);
      if (given == row.taken) {
        return Ok{};
      }
      return problem_at(
          document.file, entry.place,
          "the key " + table.name + "." + entry.key + " no longer exists: " + std::string(row.why),
          std::string(row.cure));
    }
  }
  const Key* key = find_row(table.name, entry.key);
  if (key == nullptr) {
    const std::string where =
        table.name.empty() ? "outside of all tables" : "in [" + table.name + "]";
    return problem_at(document.file, entry.place, "there is no key \"" + entry.key + "\" " + where,
                      cure_for_unknown(table.name, entry.key));
  }
  if (const Outcome<> set = set_value(site, *key, std::move(entry.value)); !set) {
    return problem_at(document.file, entry.place,
                      table.name + "." + entry.key + ": " + set.error().what);
  }
  site.lines[static_cast<std::size_t>(key - kKeys.data())] = entry.place.line;
  return Ok{};
}

}  // namespace

std::span<const Key, kKeyCount> keys() noexcept {
  return kKeys;
}

const Key* find_key(std::string_view path) noexcept {
  const std::size_t dot = path.find('.');
  return dot == std::string_view::npos ? nullptr
                                       : find_row(path.substr(0, dot), path.substr(dot + 1));
}

std::uint32_t line_of(const SiteConfig& site, std::string_view path) noexcept {
  const Key* key = find_key(path);
  return key == nullptr ? 0 : site.lines[static_cast<std::size_t>(key - kKeys.data())];
}

std::string value_text(const SiteConfig& site, const Key& key) {
  return std::visit([&](auto member) { return text_of(site.*member); }, key.member);
}

Outcome<> set_value(SiteConfig& site, const Key& key, TomlValue value) {
  return std::visit([&](auto member) { return assign(site.*member, key, value); }, key.member);
}

Outcome<SiteConfig> parse_site_config(std::string_view text, std::string file) {
  POSTERN_TRY_ASSIGN(TomlDocument document, parse_toml(text, std::move(file)));
  SiteConfig site;
  for (TomlTable& table : document.tables) {
    POSTERN_TRY(check_table(document, table));
    for (TomlEntry& entry : table.entries) {
      POSTERN_TRY(set_entry(site, document, table, entry));
    }
  }
  return site;
}

Outcome<SiteConfig> load_site_config(const std::string& path) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, read_file(path));
  return text ? parse_site_config(*text, path) : Outcome<SiteConfig>(SiteConfig{});
}

}  // namespace postern::config
