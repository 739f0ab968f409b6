// Linux capabilities by name, and capability.toml: which of them the site grants to whom.
//
//     [users]
//     alice = ["CAP_NET_RAW"]
//     [groups]
//     hpc-admins = ["CAP_SYS_NICE", "CAP_SYS_PTRACE"]
//
// Names of users and groups are those of the host, or decimal ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::config {

struct Capability {
  unsigned bit;              // number of the kernel: linux/capability.h
  std::string_view name;     // "CAP_CHOWN"
  std::string_view meaning;  // what it permits, in a line
};

// All that this release knows, by number. nullptr where a name is unknown; names match without
// regard to case, with or without "CAP_".
[[nodiscard]] const std::vector<Capability>& capabilities();
[[nodiscard]] const Capability* find_capability(std::string_view name);

// A comma-separated list of names, or "all". Problem: names the first unknown one.
[[nodiscard]] Outcome<std::uint64_t> parse_capabilities(std::string_view list);

// Names of the bits set, in the kernel's order; bits without a name are left out.
[[nodiscard]] std::vector<std::string> capability_names(std::uint64_t bits);

struct Grant {
  std::string name;        // user or group
  std::uint64_t bits = 0;  // bit n = capability n
};

struct CapabilityConfig {
  std::vector<Grant> users;
  std::vector<Grant> groups;
};

[[nodiscard]] Outcome<CapabilityConfig> parse_capability_config(std::string_view text,
                                                                std::string file);

// The file's text; grants of nothing are left out.
[[nodiscard]] std::string capability_config_text(const CapabilityConfig& config);

}  // namespace postern::config
