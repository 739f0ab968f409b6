// Names of capabilities, as people write them.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include <linux/capability.h>

namespace postern::config {

// In the order of their numbers (capabilities(7)), without "CAP_".
inline constexpr std::array<std::string_view, CAP_LAST_CAP + 1> kCapabilityNames = {
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE"};
static_assert(kCapabilityNames[CAP_SYS_ADMIN] == "SYS_ADMIN");
static_assert(kCapabilityNames[CAP_CHECKPOINT_RESTORE] == "CHECKPOINT_RESTORE");

// The number of a capability: any case, with or without "CAP_".
constexpr std::optional<unsigned> capability_number(std::string_view name) {
  const auto upper = [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; };
  const auto equal = [&](std::string_view a, std::string_view b) {
    if (a.size() != b.size()) {
      return false;
    }
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (upper(a[i]) != b[i]) {
        return false;
      }
    }
    return true;
  };
  if (name.size() > 4 && equal(name.substr(0, 4), "CAP_")) {
    name.remove_prefix(4);
  }
  for (unsigned number = 0; number < kCapabilityNames.size(); ++number) {
    if (equal(name, kCapabilityNames[number])) {
      return number;
    }
  }
  return std::nullopt;
}

}  // namespace postern::config
