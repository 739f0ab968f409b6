// The audit entry of a decision: one for every privileged start and every refusal.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "policy/audit/job.h"
#include "policy/audit/record.h"
#include "policy/judge/facts.h"
#include "protocol/launch_request.h"
#include "protocol/verdict.h"

namespace postern::judge {

// What the entry tells. `request` is null where there was none to read.
struct AuditFacts {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string user;  // empty where the number has no name
  std::optional<audit::SlurmJob> job;
  const Verdict* verdict = nullptr;
  const LaunchRequest* request = nullptr;
  const Facts* facts = nullptr;
  std::string root_path;  // shown_path of descriptor 0
  std::uint64_t root_device = 0;
  std::uint64_t root_inode = 0;
  std::string detail;  // of a refusal: words about the site's own files
};

[[nodiscard]] audit::Record audit_record(const AuditFacts& facts);

}  // namespace postern::judge
