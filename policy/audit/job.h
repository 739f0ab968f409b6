// The Slurm job that a process belongs to, as its control group says: slurmstepd makes the group
// as root, so a user cannot claim another job. An environment variable could be anybody's.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace postern::audit {

struct SlurmJob {
  std::string job;   // digits
  std::string step;  // "0", "batch", "extern", "interactive"; may be empty
};

// `cgroup` is the text of /proc/PID/cgroup.
[[nodiscard]] std::optional<SlurmJob> find_slurm_job(std::string_view cgroup);

// The same of this process.
[[nodiscard]] std::optional<SlurmJob> slurm_job();

}  // namespace postern::audit
