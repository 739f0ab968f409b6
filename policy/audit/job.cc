#include "policy/audit/job.h"

#include <algorithm>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "policy/text/split.h"
#include "protocol/base/unique_fd.h"

namespace postern::audit {
namespace {

constexpr std::size_t kMostBytes = 20;

bool is_step(std::string_view text) {
  return !text.empty() && text.size() <= kMostBytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
         });
}

bool is_job(std::string_view text) {
  return !text.empty() && text.size() <= kMostBytes &&
         text.find_first_not_of("0123456789") == text.npos;
}

// Only where root alone can make groups: "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
// or "/slurm/uid_1000/job_7/step_0" of version 1. With several slurmd on a node their name goes
// before or behind.
std::optional<SlurmJob> job_of(std::string_view path) {
  const std::vector<std::string_view> parts = text::split(path, '/');
  if (parts.size() < 4 || !parts[0].empty()) {
    return std::nullopt;
  }
  const bool version_2 = parts[1] == "system.slice" && (parts[2] == "slurmstepd.scope" ||
                                                        parts[2].ends_with("_slurmstepd.scope"));
  const bool version_1 =
      (parts[1] == "slurm" || parts[1].starts_with("slurm_")) && parts[2].starts_with("uid_");
  if ((!version_2 && !version_1) || !parts[3].starts_with("job_") || !is_job(parts[3].substr(4))) {
    return std::nullopt;
  }
  SlurmJob found{.job = std::string(parts[3].substr(4))};
  if (parts.size() > 4 && parts[4].starts_with("step_") && is_step(parts[4].substr(5))) {
    found.step = parts[4].substr(5);
  }
  return found;
}

}  // namespace

std::optional<SlurmJob> find_slurm_job(std::string_view cgroup) {
  for (const std::string_view line : text::split(cgroup, '\n')) {
    const auto first = line.find(':');
    const auto second = first == line.npos ? first : line.find(':', first + 1);
    if (second != line.npos) {
      if (auto found = job_of(line.substr(second + 1))) {
        return found;
      }
    }
  }
  return std::nullopt;
}

std::optional<SlurmJob> slurm_job() {
  const UniqueFd file(::open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC));
  std::string text(std::size_t{16} * 1024, '\0');
  const ssize_t got = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
  return got <= 0 ? std::nullopt
                  : find_slurm_job(std::string_view(text).substr(0, static_cast<std::size_t>(got)));
}

}  // namespace postern::audit
