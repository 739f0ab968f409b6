// Words for what can fail in a start: which item, what was wrong, how to mend it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "frontend/plan/launch_plan.h"
#include "helper/mounts.h"
#include "policy/judge/verdict_from_request.h"
#include "policy/problem.h"

namespace postern::start {

// Where the new process was when something failed.
enum class Step : std::uint8_t {
  kClone,    // clone(2)
  kMap,      // identity maps of the new user namespace
  kJoin,     // setns(2) into the server's user namespace
  kUnshare,  // the other namespaces
  kJoinNet,  // the network namespace of the request
  kLoopback,
  kNetwork,       // the program that carries it has ended
  kOpen,          // a source; item = index of the descriptor
  kMount,         // what a server serves
  kMerge,         // passwd or group
  kCloneSources,  // clone_sources; error.item = operation
  kBuild,         // build_root; error.item = operation
  kControlGroup,
  kDrop,
  kExecute,   // postern-init
  kDeadline,  // none of these came to an end in time
  kEnded,     // the process was killed, or ended itself on a broken precondition
};

struct Failure {
  Step step = Step::kClone;
  Error error;
  std::uint16_t source = 0;
};

// Whether the container may do without what this source is for.
bool is_optional(const plan::LaunchPlan& plan, std::size_t source) noexcept;

Problem source_problem(const plan::LaunchPlan& plan, std::size_t source, int err);
Problem control_group_problem(int err);
Problem refusal_problem(const plan::LaunchPlan& plan, const Refusal& refusal);

// For a server that ended before it said a word: killed, or not even loaded (127, ld.so(8)).
inline constexpr std::string_view kServerMemoryCure =
    "it needs 32 MiB of memory: raise `ulimit -d` and `ulimit -v`, or the batch system's limit";
inline constexpr int kExitOfLoader = 127;

// `last_words`: what an image server of ours wrote before it ended.
Problem payload_problem(const plan::LaunchPlan& plan,
                        const Failure& failure,
                        const std::string& last_words);

// A server may be going just as we come. After so many tries, one second, a start brings its own.
// Payloads that end at once end their server while hundreds wait for it: each try is one of those
// servers, and with 8 tries a hundred of 256 starts came out with a server each.
inline constexpr int kShareAttempts = 64;

// The failure of somebody who joined a server that was about to end.
bool is_lost_server(const Failure& failure) noexcept;

// Before try number `tries` + 1. Among hundreds of starts a new server needs its time until it is
// mounted; whoever asks again at once has used up all tries by then.
void pause_after_lost_server(int tries) noexcept;

}  // namespace postern::start
