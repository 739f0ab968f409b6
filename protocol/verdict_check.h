// Plan: a verdict that passed the check. The only way to get one is check_verdict, so whoever holds
// one may rely on every rule that verdict_check.cc proves.
#pragma once

#include "protocol/base/result.h"
#include "protocol/verdict.h"

namespace postern {

class Plan {
 public:
  const Verdict* operator->() const noexcept { return verdict_; }

  // Text at an offset that the check proved to be inside the arena and NUL-terminated.
  const char* text(std::uint32_t offset) const noexcept { return &verdict_->arena[offset]; }

 private:
  explicit Plan(const Verdict& verdict) noexcept : verdict_(&verdict) {}

  friend Result<Plan> check_verdict(const Verdict&, std::size_t, std::uint32_t) noexcept;
  const Verdict* verdict_;
};

// BOUNDARY: a verdict becomes trusted here. Pure; allocates nothing. `descriptors` is the number
// that came with the request; `allowed` the namespaces that this mode may use (setuid: all but the
// user namespace, which the other mode must have). The verdict must outlive the plan.
// Error: EBADMSG, Op::kCheckVerdict, item = the offending operation.
Result<Plan> check_verdict(const Verdict& verdict,
                           std::size_t descriptors,
                           std::uint32_t allowed) noexcept;

}  // namespace postern
