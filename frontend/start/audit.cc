#include "frontend/start/audit.h"

#include <array>
#include <climits>
#include <cstdlib>
#include <string>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <unistd.h>

#include "frontend/message/message.h"
#include "policy/admit/ids.h"
#include "policy/audit/job.h"
#include "policy/audit/log.h"

namespace postern::start {
namespace {

constexpr std::size_t kClaimedBytes = 40;

// Of an open image the file itself; of a directory the place that its name leads to.
std::string path_of(const plan::LaunchPlan& plan) {
  std::array<char, PATH_MAX> buffer{};
  if (plan.servers.empty()) {
    const char* const real = ::realpath(plan.image_name.c_str(), buffer.data());
    return real != nullptr ? real : plan.image_name;
  }
  const std::string link = "/proc/self/fd/" + std::to_string(plan.servers[0].image.get());
  const ssize_t length = ::readlink(link.c_str(), buffer.data(), buffer.size());
  return length > 0 ? std::string(buffer.data(), static_cast<std::size_t>(length))
                    : plan.image_name;
}

void add_job(audit::Record& out) {
  if (const auto job = audit::slurm_job()) {
    out.add("slurm-job", job->job);
    if (!job->step.empty()) {
      out.add("slurm-step", job->step);
    }
    return;
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): one thread
  if (const char* const claimed = ::getenv("SLURM_JOB_ID")) {
    out.add_text("slurm-job-claimed", claimed, kClaimedBytes);
  }
}

}  // namespace

audit::Record audit_record(const plan::LaunchPlan& plan, bool refused) {
  audit::Record out;
  out.add("uid", ::getuid());
  out.add("gid", ::getgid());
  out.add("mode", "user-namespace");
  out.add("proven", "no");
  out.add("decision", refused ? "refuse" : "start");
  add_job(out);
  if (const std::string user = admit::name_of(::getuid()); !user.empty()) {
    out.add_text("user", user, audit::kNameBytes);
  }
  out.add("root", plan.servers.empty() ? "directory" : "fuse");
  const std::string path = path_of(plan);
  out.add_text("path-unproven", path, audit::kPathBytes);
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0) {
    out.add("device",
            std::to_string(major(info.st_dev)) + ':' + std::to_string(minor(info.st_dev)));
    out.add("inode", info.st_ino);
  }
  return out;
}

void log_start(const plan::LaunchPlan& plan, bool refused) {
  const audit::Log log = audit::Log::open("postern");
  if (!log.is_present() || !log.write(audit_record(plan, refused), refused)) {
    message::verbose("no log takes the entry of this start (audit.user-namespaces)");
  }
}

}  // namespace postern::start
