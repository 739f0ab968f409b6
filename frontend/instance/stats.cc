// What an instance uses: the figures of its control group if it has one of its own, else those of
// its processes.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <sys/sysinfo.h>

#include <dirent.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "frontend/instance/command.h"
#include "frontend/instance/name.h"
#include "frontend/instance/registry.h"
#include "frontend/message/message.h"
#include "frontend/message/table.h"
#include "policy/text/decimal.h"
#include "policy/text/split.h"

namespace postern::instance {
namespace {

struct Sample {
  std::uint64_t cpu_nanoseconds = 0;
  std::uint64_t user_nanoseconds = 0;
  std::uint64_t system_nanoseconds = 0;
  std::uint64_t memory = 0;
  std::uint64_t memory_limit = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t processes = 0;
  std::optional<std::uint64_t> process_limit;
  std::int64_t at = 0;  // nanoseconds
};

// Small files of /proc and of cgroup v2, whose size is not known before.
std::string read_text(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::array<char, 4096> bytes;
  std::string text;
  for (ssize_t got = 0;
       file.valid() && (got = ::read(file.get(), bytes.data(), bytes.size())) > 0;) {
    text.append(bytes.data(), static_cast<std::size_t>(got));
  }
  return text;
}

std::uint64_t number_at(std::string_view text) {
  std::uint64_t number = 0;
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// "KEY 123" on a line of its own, or "KEY=123" among others; all of them added up.
std::uint64_t sum_of(std::string_view text, std::string_view key) {
  std::uint64_t sum = 0;
  for (std::size_t at = text.find(key); at != text.npos; at = text.find(key, at + key.size())) {
    const bool begins = at == 0 || text[at - 1] == '\n' || text[at - 1] == ' ';
    sum += begins ? number_at(text.substr(at + key.size())) : 0;
  }
  return sum;
}

std::int64_t now() {
  timespec time = {};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

std::uint64_t memory_of_host() {
  struct sysinfo info = {};
  return ::sysinfo(&info) == 0 ? std::uint64_t{info.totalram} * info.mem_unit : 0;
}

// The fields of /proc/PID/stat behind the program's name, which may hold anything (proc(5)).
std::vector<std::string> fields_of(pid_t pid) {
  const std::string text = read_text("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = text.rfind(')');
  std::vector<std::string> fields;
  if (end == text.npos || end + 2 > text.size()) {
    return fields;
  }
  std::string_view rest = std::string_view(text).substr(end + 2);
  while (!rest.empty()) {
    const auto space = rest.find_first_of(" \n");
    fields.emplace_back(rest.substr(0, space));
    rest.remove_prefix(space == rest.npos ? rest.size() : space + 1);
  }
  return fields;
}

constexpr std::size_t kParent = 1;
constexpr std::size_t kUserTicks = 11;
constexpr std::size_t kSystemTicks = 12;
constexpr std::size_t kThreads = 17;
constexpr std::size_t kResidentPages = 21;

// Process 1 of the instance and all below it: in its namespace nothing is anywhere else.
std::map<pid_t, std::vector<std::string>> processes_of(pid_t first) {
  std::map<pid_t, std::vector<std::string>> all;
  DIR* const listing = ::opendir("/proc");
  if (listing == nullptr) {
    return all;
  }
  while (const dirent* const entry = ::readdir(listing)) {
    const std::string_view name = entry->d_name;
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error == std::errc{} && end == name.data() + name.size()) {
      if (auto fields = fields_of(pid); fields.size() > kResidentPages) {
        all.emplace(pid, std::move(fields));
      }
    }
  }
  ::closedir(listing);
  std::set<pid_t> inside{first};
  for (bool grew = true; grew;) {
    grew = false;
    for (const auto& [pid, fields] : all) {
      const auto parent = static_cast<pid_t>(number_at(fields[kParent]));
      grew = (inside.contains(parent) && inside.insert(pid).second) || grew;
    }
  }
  std::erase_if(all, [&](const auto& one) { return !inside.contains(one.first); });
  return all;
}

Sample from_processes(const std::map<pid_t, std::vector<std::string>>& processes) {
  const auto ticks = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  Sample sample;
  sample.memory_limit = memory_of_host();
  for (const auto& [pid, fields] : processes) {
    sample.user_nanoseconds += number_at(fields[kUserTicks]) * (1'000'000'000 / ticks);
    sample.system_nanoseconds += number_at(fields[kSystemTicks]) * (1'000'000'000 / ticks);
    sample.memory += number_at(fields[kResidentPages]) * page;
    sample.processes += number_at(fields[kThreads]);
    const std::string io = read_text("/proc/" + std::to_string(pid) + "/io");
    sample.read_bytes += sum_of(io, "read_bytes:");
    sample.written_bytes += sum_of(io, "write_bytes:");
  }
  sample.cpu_nanoseconds = sample.user_nanoseconds + sample.system_nanoseconds;
  return sample;
}

// The directory of the control group, if nobody but the instance is in it.
std::optional<std::string> group_of(pid_t first,
                                    const std::map<pid_t, std::vector<std::string>>& processes) {
  const std::string text = read_text("/proc/" + std::to_string(first) + "/cgroup");
  const std::size_t begin = text.starts_with("0::") ? 0 : text.find("\n0::");
  if (begin == text.npos) {
    return std::nullopt;
  }
  const std::size_t path = text.find("::", begin) + 2;
  std::string folder = "/sys/fs/cgroup" + text.substr(path, text.find('\n', path) - path);
  std::string members = read_text(folder + "/cgroup.procs");
  if (members.empty()) {
    return std::nullopt;
  }
  for (std::string_view rest = members; !rest.empty();) {
    if (!processes.contains(static_cast<pid_t>(number_at(text::next_line(rest))))) {
      return std::nullopt;
    }
  }
  return folder;
}

std::optional<std::uint64_t> limit_in(const std::string& path) {
  const std::string text = read_text(path);
  return text.empty() || text.starts_with("max") ? std::nullopt : std::optional(number_at(text));
}

Sample from_group(const std::string& group, Sample sample) {
  const std::string cpu = read_text(group + "/cpu.stat");
  if (!cpu.empty()) {
    sample.cpu_nanoseconds = sum_of(cpu, "usage_usec") * 1000;
    sample.user_nanoseconds = sum_of(cpu, "user_usec") * 1000;
    sample.system_nanoseconds = sum_of(cpu, "system_usec") * 1000;
  }
  // Controllers that the group does not have leave the figures of the processes.
  if (const std::string memory = read_text(group + "/memory.current"); !memory.empty()) {
    sample.memory = number_at(memory);
    sample.memory_limit = limit_in(group + "/memory.max").value_or(sample.memory_limit);
  }
  if (const std::string io = read_text(group + "/io.stat"); !io.empty()) {
    sample.read_bytes = sum_of(io, "rbytes=");
    sample.written_bytes = sum_of(io, "wbytes=");
  }
  if (const std::string pids = read_text(group + "/pids.current"); !pids.empty()) {
    sample.processes = number_at(pids);
    sample.process_limit = limit_in(group + "/pids.max");
  }
  return sample;
}

Sample take_sample(pid_t first) {
  const auto processes = processes_of(first);
  Sample sample = from_processes(processes);
  if (const auto group = group_of(first, processes)) {
    sample = from_group(*group, sample);
  }
  sample.at = now();
  return sample;
}

std::string size_text(std::uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto number = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; number >= 1024 && unit + 1 < kUnits.size(); ++unit) {
    number /= 1024;
  }
  std::array<char, 64> text = {};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f%s" : "%.2f%s", number, kUnits[unit]);
  return text.data();
}

std::string percent(double part, double whole) {
  std::array<char, 64> text = {};
  std::snprintf(text.data(), text.size(), "%.2f%%", whole > 0 ? part / whole * 100 : 0);
  return text.data();
}

std::string as_text(const std::string& name, const Sample& before, const Sample& sample) {
  const auto cpu =
      static_cast<double>(sample.cpu_nanoseconds) - static_cast<double>(before.cpu_nanoseconds);
  return message::table(
      {{"INSTANCE NAME", "CPU USAGE", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS"},
       {name, percent(std::max(cpu, 0.0), static_cast<double>(sample.at - before.at)),
        size_text(sample.memory) + " / " + size_text(sample.memory_limit),
        percent(static_cast<double>(sample.memory), static_cast<double>(sample.memory_limit)),
        size_text(sample.read_bytes) + " / " + size_text(sample.written_bytes),
        std::to_string(sample.processes)}});
}

// The names of the OCI runtimes' statistics.
std::string as_json(const Sample& sample) {
  nlohmann::ordered_json all;
  all["cpu_stats"]["cpu_usage"] = {{"total_usage", sample.cpu_nanoseconds},
                                   {"usage_in_kernelmode", sample.system_nanoseconds},
                                   {"usage_in_usermode", sample.user_nanoseconds}};
  all["memory_stats"]["usage"] = {{"usage", sample.memory}, {"limit", sample.memory_limit}};
  all["pids_stats"]["current"] = sample.processes;
  if (sample.process_limit) {
    all["pids_stats"]["limit"] = *sample.process_limit;
  }
  all["blkio_stats"]["io_service_bytes_recursive"] = {
      {{"op", "read"}, {"value", sample.read_bytes}},
      {{"op", "write"}, {"value", sample.written_bytes}}};
  return all.dump(4) + "\n";
}

Outcome<double> interval_in(std::string_view text) {
  if (text.empty()) {
    return 1.0;
  }
  const std::optional<double> seconds = text::parse_decimal(text);
  if (!seconds || *seconds < 0.01 || *seconds > 86'400) {
    return Problem{.what = "--interval: " + std::string(text) +
                           " is not a number of seconds from 0.01 to 86400"};
  }
  return *seconds;
}

// Until the instance ends, or `seconds` have passed. False: it has ended.
bool wait(const Contact& contact, double seconds) {
  pollfd end = {contact.socket.get(), POLLIN, 0};
  return ::poll(&end, 1, static_cast<int>(seconds * 1000)) == 0;
}

}  // namespace

Outcome<int> stats(const option::Arguments& arguments, uid_t owner) {
  const std::string& name = arguments.positional().front();
  POSTERN_TRY(check_name(name));
  POSTERN_TRY_ASSIGN(const double seconds, interval_in(arguments.text("interval")));
  const std::vector<Contact> contacts = find_all(name, owner);
  if (contacts.empty()) {
    return Problem{.what = "no instance found with name " + name,
                   .cure = "postern instance list shows those that run on this host"};
  }
  const Contact& contact = contacts.front();
  POSTERN_TRY_ASSIGN(const Description description, describe(contact));
  Sample before = take_sample(description.pid);
  const bool once = arguments.given("no-stream") || arguments.given("json");
  if (arguments.given("json")) {
    std::fputs(as_json(before).c_str(), stdout);
    return 0;
  }
  while (wait(contact, seconds)) {
    const Sample sample = take_sample(description.pid);
    // ORDER: alive after the look: the number was the instance's.
    if (has_ended(contact.monitor)) {
      break;
    }
    const bool clears = !once && ::isatty(STDOUT_FILENO) == 1;
    std::fputs(((clears ? "\x1b[H\x1b[2J" : "") + as_text(name, before, sample)).c_str(), stdout);
    if (std::fflush(stdout) != 0 || once) {
      return 0;
    }
    before = sample;
  }
  if (once) {
    return Problem{.what = "instance " + name + " ended"};
  }
  return 0;
}

}  // namespace postern::instance
