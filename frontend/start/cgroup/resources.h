// What --memory, --cpus … and --apply-cgroups ask for, checked, and what that is in the files of
// control groups version 2. Nothing here looks at a control group.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/plan/action.h"
#include "policy/problem.h"

namespace postern::start::cgroup {

inline constexpr std::int64_t kUnlimited = -1;

// A block device's weight or rate; `file` of the group takes one line for each.
struct DeviceValue {
  unsigned major = 0;
  unsigned minor = 0;
  std::uint64_t value = 0;
  std::string_view key;  // of io.max: "rbps" …; empty for a weight
};

// The resources of the OCI runtime specification (config-linux.md), which counts as version 1 does.
struct Resources {
  std::optional<std::int64_t> memory;  // bytes; kUnlimited
  std::optional<std::int64_t> memory_swap;
  std::optional<std::int64_t> memory_reservation;
  std::optional<std::uint64_t> cpu_shares;
  std::optional<std::int64_t> cpu_quota;  // microseconds in each period
  std::optional<std::uint64_t> cpu_period;
  std::string cpuset_cpus;
  std::string cpuset_mems;
  std::optional<std::int64_t> pids;
  std::optional<std::uint64_t> blkio_weight;
  std::vector<DeviceValue> blkio_weight_devices;
  std::vector<DeviceValue> blkio_rates;
  // Files of version 2 and their values: huge pages, RDMA, and what the table "unified" names.
  std::vector<std::pair<std::string, std::string>> files;
};

// One limit: the first of these files that the group has takes its value.
struct Setting {
  struct Way {
    std::string file;
    std::string value;
  };

  std::vector<Way> ways;

  // "memory" of "memory.max".
  [[nodiscard]] std::string_view controller() const {
    return std::string_view(ways.front().file).substr(0, ways.front().file.find('.'));
  }
};

// The limits of a start; empty where it asks for none. A Problem names the option, or the file and
// the line. `warnings`: what has no effect.
Outcome<std::vector<Setting>> read_settings(const plan::ResourceWish& wish,
                                            std::vector<std::string>& warnings);

// The parts of read_settings.
Outcome<Resources> resources_of(const plan::ResourceWish& wish);
Outcome<Resources> parse_resources(std::string_view text,
                                   const std::string& file,
                                   std::vector<std::string>& warnings);
Outcome<std::vector<Setting>> settings_of(const Resources& resources);

// "512m", "1.5G", "100 MiB", "4096": bytes, in powers of 1024.
std::optional<std::int64_t> parse_size(std::string_view text);

// "0-3,8": the numbers, ascending; nothing where it is no such list.
std::optional<std::vector<unsigned>> parse_cpu_list(std::string_view text);

// 2 … 1024 … 262144 of version 1 to 1 … 100 … 10000 of version 2.
std::uint64_t cpu_weight(std::uint64_t shares);

// 10 … 1000 to 1 … 10000.
std::uint64_t io_weight(std::uint64_t weight);

}  // namespace postern::start::cgroup
