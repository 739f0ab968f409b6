#include "frontend/start/cgroup/resources.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <unistd.h>

#include "policy/config/read_file.h"
#include "policy/text/decimal.h"
#include "policy/text/printable.h"
#include "protocol/exit_codes.h"

namespace postern::start::cgroup {
namespace {

constexpr std::uint64_t kPeriodMicroseconds = 100'000;
constexpr std::int64_t kLeastQuota =
    1'000;  // microseconds: kernel/sched/core.c, min_cfs_quota_period
constexpr std::uint64_t kLeastShares = 2;
constexpr std::uint64_t kMostShares = 262'144;
constexpr std::uint64_t kMostCpuWeight = 10'000;
constexpr std::uint64_t kLeastWeight = 10;
constexpr std::uint64_t kMostWeight = 1'000;

Problem bad(std::string_view option, std::string_view value, std::string_view expected) {
  return Problem{.what = "--" + std::string(option) + ": \"" + text::printable(value) +
                         "\" is not " + std::string(expected),
                 .cure = "postern(1), CONTROL GROUPS, shows the values of each limit"};
}

template <class T>
std::optional<T> parse_whole(std::string_view text) {
  T number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size() ? std::optional(number)
                                                                  : std::nullopt;
}

// Of a number from 1 upwards, digit by digit. Not std::log2: every start would pay for loading the
// mathematics library.
double log2_of(double number) {
  double whole = 0;
  for (; number >= 2; number /= 2) {
    whole += 1;
  }
  double fraction = 0;
  for (double digit = 0.5; digit > std::numeric_limits<double>::epsilon(); digit /= 2) {
    number *= number;
    if (number >= 2) {
      number /= 2;
      fraction += digit;
    }
  }
  return whole + fraction;
}

// ---------------------------------------------------------------------------------- options

Outcome<std::optional<std::int64_t>> size_option(std::string_view option,
                                                 const std::optional<std::string>& text,
                                                 bool may_be_unlimited) {
  if (!text) {
    return std::optional<std::int64_t>();
  }
  if (may_be_unlimited && *text == "-1") {
    return std::optional(kUnlimited);
  }
  const std::optional<std::int64_t> bytes = parse_size(*text);
  if (!bytes || *bytes <= 0) {
    return bad(option, *text,
               may_be_unlimited ? "a size above zero, such as 512m or 2G, nor -1 for no limit"
                                : "a size above zero, such as 512m or 2G");
  }
  return bytes;
}

Outcome<std::string> list_option(std::string_view option, const std::optional<std::string>& text) {
  if (text && !parse_cpu_list(*text)) {
    return bad(option, *text, "a list of numbers and ranges, such as 0-3,8");
  }
  return text.value_or("");
}

Outcome<> cpu_options(const plan::ResourceWish& wish, Resources& out) {
  if (wish.cpus) {
    const std::optional<double> cpus = text::parse_decimal(*wish.cpus);
    const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
    if (!cpus || *cpus < 0.01 || *cpus > static_cast<double>(online)) {
      return bad("cpus", *wish.cpus,
                 "a number of processors from 0.01 to " + std::to_string(online) +
                     ", which this host has");
    }
    out.cpu_period = kPeriodMicroseconds;
    constexpr double kHalf = 0.5;  // rounded
    out.cpu_quota =
        static_cast<std::int64_t>(*cpus * static_cast<double>(kPeriodMicroseconds) + kHalf);
  }
  if (wish.cpu_shares && *wish.cpu_shares != "-1") {
    out.cpu_shares = parse_whole<std::uint64_t>(*wish.cpu_shares);
    if (!out.cpu_shares || *out.cpu_shares < kLeastShares || *out.cpu_shares > kMostShares) {
      return bad("cpu-shares", *wish.cpu_shares, "a number from 2 to 262144");
    }
  }
  POSTERN_TRY_ASSIGN(out.cpuset_cpus, list_option("cpuset-cpus", wish.cpuset_cpus));
  POSTERN_TRY_ASSIGN(out.cpuset_mems, list_option("cpuset-mems", wish.cpuset_mems));
  return Ok{};
}

Outcome<DeviceValue> weight_of_device(const std::string& text) {
  const auto colon = text.rfind(':');
  const auto weight = colon == text.npos
                          ? std::nullopt
                          : parse_whole<std::uint64_t>(std::string_view(text).substr(colon + 1));
  if (!weight || *weight < kLeastWeight || *weight > kMostWeight) {
    return bad("blkio-weight-device", text, "DEVICE:WEIGHT with a weight from 10 to 1000");
  }
  const std::string device = text.substr(0, colon);
  struct stat info = {};
  if (::stat(device.c_str(), &info) != 0) {
    return system_problem("--blkio-weight-device: " + text::printable(device), errno);
  }
  if (!S_ISBLK(info.st_mode)) {
    return bad("blkio-weight-device", device, "a block device");
  }
  return DeviceValue{.major = major(info.st_rdev), .minor = minor(info.st_rdev), .value = *weight};
}

Outcome<> other_options(const plan::ResourceWish& wish, Resources& out) {
  if (wish.pids_limit) {
    out.pids = parse_whole<std::int64_t>(*wish.pids_limit);
    if (!out.pids || *out.pids < kUnlimited) {
      return bad("pids-limit", *wish.pids_limit, "a number of processes, nor -1 for no limit");
    }
  }
  if (wish.blkio_weight && *wish.blkio_weight != "0") {
    out.blkio_weight = parse_whole<std::uint64_t>(*wish.blkio_weight);
    if (!out.blkio_weight || *out.blkio_weight < kLeastWeight || *out.blkio_weight > kMostWeight) {
      return bad("blkio-weight", *wish.blkio_weight, "a weight from 10 to 1000, nor 0 for none");
    }
  }
  for (const std::string& text : wish.blkio_weight_devices) {
    POSTERN_TRY_ASSIGN(const DeviceValue device, weight_of_device(text));
    out.blkio_weight_devices.push_back(device);
  }
  if (wish.oom_kill_disable) {
    return Problem{.what =
                       "--oom-kill-disable: control groups version 2 cannot keep the kernel "
                       "from ending processes when memory is short",
                   .cure = "leave the option out and ask for more with --memory"};
  }
  return Ok{};
}

// ----------------------------------------------------------------------------- version 2

std::string limit_text(std::int64_t value) {
  return value == kUnlimited ? "max" : std::to_string(value);
}

void add(std::vector<Setting>& out, std::string file, std::string value) {
  out.push_back({.ways = {{.file = std::move(file), .value = std::move(value)}}});
}

// Version 1 bounds memory and swap together, version 2 swap alone.
Outcome<> memory_settings(const Resources& from, std::vector<Setting>& out) {
  if (from.memory) {
    add(out, "memory.max", limit_text(*from.memory));
  }
  if (from.memory_reservation) {
    if (from.memory && *from.memory != kUnlimited && *from.memory_reservation > *from.memory) {
      return Problem{.what = "the memory reservation is larger than the memory limit",
                     .cure = "lower --memory-reservation or raise --memory"};
    }
    add(out, "memory.low", limit_text(*from.memory_reservation));
  }
  if (!from.memory_swap) {
    if (from.memory == kUnlimited) {
      add(out, "memory.swap.max", "max");
    }
    return Ok{};
  }
  if (*from.memory_swap == kUnlimited) {
    add(out, "memory.swap.max", "max");
    return Ok{};
  }
  if (!from.memory || *from.memory == kUnlimited) {
    return Problem{.what = "a limit of memory and swap together needs one of memory",
                   .cure = "give --memory as well"};
  }
  if (*from.memory_swap < *from.memory) {
    return Problem{.what = "the limit of memory and swap together is smaller than that of memory",
                   .cure = "--memory-swap counts both: give at least the value of --memory"};
  }
  add(out, "memory.swap.max", std::to_string(*from.memory_swap - *from.memory));
  return Ok{};
}

void cpu_settings(const Resources& from, std::vector<Setting>& out) {
  if (from.cpu_quota || from.cpu_period) {
    const std::string quota =
        from.cpu_quota && *from.cpu_quota > 0 ? std::to_string(*from.cpu_quota) : "max";
    add(out, "cpu.max",
        quota + ' ' + std::to_string(from.cpu_period.value_or(kPeriodMicroseconds)));
  }
  if (from.cpu_shares) {
    add(out, "cpu.weight", std::to_string(cpu_weight(*from.cpu_shares)));
  }
  if (!from.cpuset_cpus.empty()) {
    add(out, "cpuset.cpus", from.cpuset_cpus);
  }
  if (!from.cpuset_mems.empty()) {
    add(out, "cpuset.mems", from.cpuset_mems);
  }
}

std::string number_of(const DeviceValue& device) {
  return std::to_string(device.major) + ':' + std::to_string(device.minor) + ' ';
}

// BFQ counts as version 1 does; io.cost, whose file is io.weight, does not.
void io_settings(const Resources& from, std::vector<Setting>& out) {
  const auto add_weight = [&out](const std::string& device, std::uint64_t weight) {
    out.push_back(
        {.ways = {{.file = "io.bfq.weight", .value = device + std::to_string(weight)},
                  {.file = "io.weight", .value = device + std::to_string(io_weight(weight))}}});
  };
  if (from.blkio_weight) {
    add_weight("", *from.blkio_weight);
  }
  for (const DeviceValue& device : from.blkio_weight_devices) {
    add_weight(number_of(device), device.value);
  }
  for (const DeviceValue& device : from.blkio_rates) {
    add(out, "io.max",
        number_of(device) + std::string(device.key) + '=' + std::to_string(device.value));
  }
}

Outcome<Resources> read_resources(const plan::ResourceWish& wish,
                                  std::vector<std::string>& warnings) {
  if (!wish.file) {
    return resources_of(wish);
  }
  plan::ResourceWish options = wish;
  options.file.reset();
  if (options != plan::ResourceWish{}) {
    return Problem{.what = "--apply-cgroups cannot be combined with options for single limits",
                   .cure = "write all of them into the file, or give options alone"};
  }
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, config::read_file(*wish.file));
  if (!text) {
    return system_problem("--apply-cgroups: " + text::printable(*wish.file), ENOENT);
  }
  return parse_resources(*text, *wish.file, warnings);
}

}  // namespace

std::optional<std::int64_t> parse_size(std::string_view text) {
  const auto end = text.find_first_not_of("0123456789.");
  const std::optional<double> number = text::parse_decimal(text.substr(0, end));
  std::string_view unit = end == text.npos ? std::string_view() : text.substr(end);
  if (!number) {
    return std::nullopt;
  }
  if (unit.starts_with(' ')) {
    unit.remove_prefix(1);
  }
  constexpr std::string_view kUnits = "kmgtp";
  double bytes = *number;
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  if (!unit.empty() && kUnits.find(lower(unit.front())) != kUnits.npos) {
    bytes *= static_cast<double>(1ULL << (10 * (1 + kUnits.find(lower(unit.front())))));
    unit.remove_prefix(1);
  }
  if (!unit.empty() && lower(unit.front()) == 'i') {
    unit.remove_prefix(1);
  }
  if (!unit.empty() && lower(unit.front()) == 'b') {
    unit.remove_prefix(1);
  }
  // 2^63 itself is not a value of the type.
  if (!unit.empty() || bytes >= 0x1p63) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(bytes);
}

std::optional<std::vector<unsigned>> parse_cpu_list(std::string_view text) {
  constexpr unsigned kMostNumbers = 1U << 16;
  std::vector<unsigned> out;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const auto dash = part.find('-');
    const auto first = parse_whole<unsigned>(part.substr(0, dash));
    const auto last = dash == part.npos ? first : parse_whole<unsigned>(part.substr(dash + 1));
    if (!first || !last || *first > *last || *last >= kMostNumbers) {
      return std::nullopt;
    }
    for (unsigned number = *first; number <= *last; ++number) {
      out.push_back(number);
    }
    begin = end + 1;
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// The kernel's two scales meet at their ends and at their defaults; between them this curve, which
// runc and crun use as well, is a parabola of the logarithms: the least weight at or above it.
std::uint64_t cpu_weight(std::uint64_t shares) {
  constexpr double kLog2Of10 = 3.321928094887362;
  constexpr double kRounding = 1e-6;
  const double log = log2_of(static_cast<double>(std::clamp(shares, kLeastShares, kMostShares)));
  const double wanted = kLog2Of10 * ((log * log + 125 * log) / 612.0 - 7.0 / 34.0);
  std::uint64_t least = 1;
  for (std::uint64_t most = kMostCpuWeight; least < most;) {
    const std::uint64_t middle = (least + most) / 2;
    if (log2_of(static_cast<double>(middle) + kRounding) >= wanted) {
      most = middle;
    } else {
      least = middle + 1;
    }
  }
  return least;
}

std::uint64_t io_weight(std::uint64_t weight) {
  return 1 + (std::clamp(weight, kLeastWeight, kMostWeight) - kLeastWeight) * 9999 / 990;
}

Outcome<Resources> resources_of(const plan::ResourceWish& wish) {
  Resources out;
  POSTERN_TRY_ASSIGN(out.memory, size_option("memory", wish.memory, true));
  POSTERN_TRY_ASSIGN(out.memory_swap, size_option("memory-swap", wish.memory_swap, true));
  POSTERN_TRY_ASSIGN(out.memory_reservation,
                     size_option("memory-reservation", wish.memory_reservation, false));
  POSTERN_TRY(cpu_options(wish, out));
  POSTERN_TRY(other_options(wish, out));
  return out;
}

Outcome<std::vector<Setting>> settings_of(const Resources& resources) {
  std::vector<Setting> out;
  POSTERN_TRY(memory_settings(resources, out));
  if (resources.cpu_quota && *resources.cpu_quota > 0 && *resources.cpu_quota < kLeastQuota) {
    return Problem{.what = "a processor quota of " + std::to_string(*resources.cpu_quota) +
                           " microseconds is below the kernel's least of 1000"};
  }
  cpu_settings(resources, out);
  if (resources.pids) {
    // 0 is no limit, as Apptainer and runc take it: with it nothing could be started.
    add(out, "pids.max", *resources.pids <= 0 ? "max" : std::to_string(*resources.pids));
  }
  io_settings(resources, out);
  for (const auto& [file, value] : resources.files) {
    add(out, file, value);
  }
  return out;
}

Outcome<std::vector<Setting>> read_settings(const plan::ResourceWish& wish,
                                            std::vector<std::string>& warnings) {
  if (wish == plan::ResourceWish{}) {
    return std::vector<Setting>();
  }
  POSTERN_TRY_ASSIGN(const Resources resources, read_resources(wish, warnings));
  return settings_of(resources);
}

}  // namespace postern::start::cgroup
