#include "policy/config/capabilities.h"

#include <algorithm>
#include <array>
#include <utility>

#include <linux/capability.h>

#include <strings.h>

#include "policy/config/toml_document.h"

namespace postern::config {
namespace {

// clang-format off
constexpr std::array kCapabilities = std::to_array<Capability>({
  {CAP_CHOWN, "CAP_CHOWN", "change the owner and group of any file"},
  {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "read, write and execute files whatever their permissions"},
  {CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", "read files and search directories whatever their permissions"},
  {CAP_FOWNER, "CAP_FOWNER", "do to any file what is the owner's to do: permissions, attributes, ACLs"},
  {CAP_FSETID, "CAP_FSETID", "keep setuid and setgid bits of a file that is changed"},
  {CAP_KILL, "CAP_KILL", "signal any process"},
  {CAP_SETGID, "CAP_SETGID", "change to any group"},
  {CAP_SETUID, "CAP_SETUID", "change to any user"},
  {CAP_SETPCAP, "CAP_SETPCAP", "add to the inheritable set, drop from the bounding set, change securebits"},
  {CAP_LINUX_IMMUTABLE, "CAP_LINUX_IMMUTABLE", "set the immutable and append-only attributes of files"},
  {CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "bind to ports below 1024"},
  {CAP_NET_BROADCAST, "CAP_NET_BROADCAST", "broadcast and listen to multicast (unused by the kernel)"},
  {CAP_NET_ADMIN, "CAP_NET_ADMIN", "configure interfaces, routes, firewalls and other parts of the network"},
  {CAP_NET_RAW, "CAP_NET_RAW", "use raw and packet sockets"},
  {CAP_IPC_LOCK, "CAP_IPC_LOCK", "lock memory beyond the limit"},
  {CAP_IPC_OWNER, "CAP_IPC_OWNER", "use System V IPC objects whatever their permissions"},
  {CAP_SYS_MODULE, "CAP_SYS_MODULE", "load and unload kernel modules"},
  {CAP_SYS_RAWIO, "CAP_SYS_RAWIO", "access I/O ports, device memory and raw device commands"},
  {CAP_SYS_CHROOT, "CAP_SYS_CHROOT", "chroot(2), and change mount namespaces"},
  {CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "trace any process and read its memory"},
  {CAP_SYS_PACCT, "CAP_SYS_PACCT", "switch process accounting"},
  {CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "mount, and most other tasks of system administration"},
  {CAP_SYS_BOOT, "CAP_SYS_BOOT", "reboot, and load another kernel"},
  {CAP_SYS_NICE, "CAP_SYS_NICE", "raise priorities, set schedulers and CPU affinity of any process"},
  {CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "exceed resource limits and quotas"},
  {CAP_SYS_TIME, "CAP_SYS_TIME", "set the clock"},
  {CAP_SYS_TTY_CONFIG, "CAP_SYS_TTY_CONFIG", "hang up and configure terminals"},
  {CAP_MKNOD, "CAP_MKNOD", "create device nodes"},
  {CAP_LEASE, "CAP_LEASE", "take leases on any file"},
  {CAP_AUDIT_WRITE, "CAP_AUDIT_WRITE", "write to the kernel's audit log"},
  {CAP_AUDIT_CONTROL, "CAP_AUDIT_CONTROL", "configure the kernel's audit subsystem"},
  {CAP_SETFCAP, "CAP_SETFCAP", "give capabilities to files"},
  {CAP_MAC_OVERRIDE, "CAP_MAC_OVERRIDE", "override mandatory access control (Smack)"},
  {CAP_MAC_ADMIN, "CAP_MAC_ADMIN", "configure mandatory access control (Smack)"},
  {CAP_SYSLOG, "CAP_SYSLOG", "read and control the kernel's log, see kernel addresses"},
  {CAP_WAKE_ALARM, "CAP_WAKE_ALARM", "set timers that wake the system"},
  {CAP_BLOCK_SUSPEND, "CAP_BLOCK_SUSPEND", "keep the system from suspending"},
  {CAP_AUDIT_READ, "CAP_AUDIT_READ", "read the kernel's audit log"},
  {CAP_PERFMON, "CAP_PERFMON", "observe the whole system's performance"},
  {CAP_BPF, "CAP_BPF", "load BPF programs and create maps"},
  {CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE", "checkpoint and restore: choose process ids, read map files"},
});
// clang-format on

constexpr bool are_in_order() {
  for (std::size_t i = 0; i < kCapabilities.size(); ++i) {
    if (kCapabilities[i].bit != i) {
      return false;
    }
  }
  return true;
}

static_assert(are_in_order(), "each capability at its number");

bool same_word(std::string_view a, std::string_view b) {
  return a.size() == b.size() && ::strncasecmp(a.data(), b.data(), a.size()) == 0;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  return first == std::string_view::npos
             ? std::string_view()
             : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

Outcome<Grant> read_grant(const TomlDocument& document, const TomlEntry& entry) {
  const auto* list = std::get_if<std::vector<std::string>>(&entry.value);
  if (list == nullptr) {
    return problem_at(document.file, entry.place,
                      "\"" + entry.key + "\" must be a list of capabilities");
  }
  Grant grant{.name = entry.key};
  for (const std::string& name : *list) {
    Outcome<std::uint64_t> bits = parse_capabilities(name);
    if (!bits) {
      return problem_at(document.file, entry.place, bits.error().what, bits.error().cure);
    }
    grant.bits |= *bits;
  }
  return grant;
}

// TOML 1.0: a bare key is letters, digits, "-" and "_".
std::string key_text(const std::string& name) {
  constexpr std::string_view kBare =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  return !name.empty() && name.find_first_not_of(kBare) == std::string::npos ? name
                                                                             : quote_toml(name);
}

void append_table(std::string& text, std::string_view name, const std::vector<Grant>& grants) {
  text += "\n[";
  text += name;
  text += "]\n";
  for (const Grant& grant : grants) {
    if (grant.bits == 0) {
      continue;
    }
    text += key_text(grant.name) + " = [";
    for (const char* comma = ""; const std::string& capability : capability_names(grant.bits)) {
      text += comma + quote_toml(capability);
      comma = ", ";
    }
    text += "]\n";
  }
}

}  // namespace

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> all(kCapabilities.begin(), kCapabilities.end());
  return all;
}

const Capability* find_capability(std::string_view name) {
  constexpr std::string_view kPrefix = "CAP_";
  for (const Capability& capability : kCapabilities) {
    if (same_word(name, capability.name) ||
        same_word(name, capability.name.substr(kPrefix.size()))) {
      return &capability;
    }
  }
  return nullptr;
}

Outcome<std::uint64_t> parse_capabilities(std::string_view list) {
  std::uint64_t bits = 0;
  for (bool more = true; more;) {
    const std::size_t comma = list.find(',');
    more = comma != std::string_view::npos;
    const std::string_view name = trimmed(list.substr(0, comma));
    list.remove_prefix(more ? comma + 1 : list.size());
    if (same_word(name, "all")) {
      bits |= (std::uint64_t{1} << kCapabilities.size()) - 1;
      continue;
    }
    const Capability* capability = find_capability(name);
    if (capability == nullptr) {
      return Problem{.what = "unknown capability \"" + std::string(name) + "\"",
                     .cure = "postern capability avail lists all"};
    }
    bits |= std::uint64_t{1} << capability->bit;
  }
  return bits;
}

std::vector<std::string> capability_names(std::uint64_t bits) {
  std::vector<std::string> names;
  for (const Capability& capability : kCapabilities) {
    if ((bits >> capability.bit & 1) != 0) {
      names.emplace_back(capability.name);
    }
  }
  return names;
}

Outcome<CapabilityConfig> parse_capability_config(std::string_view text, std::string file) {
  POSTERN_TRY_ASSIGN(const TomlDocument document, parse_toml(text, std::move(file)));
  CapabilityConfig config;
  for (const TomlTable& table : document.tables) {
    const bool is_users = table.name == "users";
    if (table.is_element || (!table.name.empty() && !is_users && table.name != "groups")) {
      return problem_at(document.file, table.place,
                        "there is no table [" + table.name + "]: only [users] and [groups]");
    }
    if (table.name.empty() && !table.entries.empty()) {
      return problem_at(document.file, table.entries.front().place,
                        "a grant must be in [users] or [groups]");
    }
    for (const TomlEntry& entry : table.entries) {
      POSTERN_TRY_ASSIGN(Grant grant, read_grant(document, entry));
      (is_users ? config.users : config.groups).push_back(std::move(grant));
    }
  }
  return config;
}

std::string capability_config_text(const CapabilityConfig& config) {
  std::string text =
      "# Capabilities that users may keep with --add-caps in setuid mode: postern-capability(1).\n"
      "# Most of them let a user become root on the host.\n";
  append_table(text, "users", config.users);
  append_table(text, "groups", config.groups);
  return text;
}

}  // namespace postern::config
