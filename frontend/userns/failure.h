// Words for what can fail in a start: which item, what was wrong, how to mend it.
#pragma once

#include <cstddef>
#include <string>

#include "frontend/run/launch_plan.h"
#include "frontend/userns/payload_process.h"
#include "helper/mounts.h"
#include "policy/judge/verdict_from_request.h"
#include "policy/problem.h"

namespace postern::userns {

// Whether the container may do without what this source is for.
bool is_optional(const run::LaunchPlan& plan, std::size_t source) noexcept;

Problem source_problem(const run::LaunchPlan& plan, std::size_t source, int err);
Problem refusal_problem(const run::LaunchPlan& plan, const Refusal& refusal);

// `last_words`: what an image server of ours wrote before it ended.
Problem payload_problem(const run::LaunchPlan& plan,
                        const Failure& failure,
                        const std::string& last_words);

// The failure of somebody who joined a server that was about to end.
bool is_lost_server(const Failure& failure) noexcept;

}  // namespace postern::userns
