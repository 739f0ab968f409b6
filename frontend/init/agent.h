// Process 1 of an instance: it reaps, keeps the instance's namespaces, and starts processes in them
// for those who join.
//
// Who talks to it: the monitor, the frontend's process that started the instance, over a socket
// pair that came with the launch record. The monitor accepts the connections of those who join,
// sees to it that they are the same user's and on the host, and passes them on. Each is served by a
// process of its own (session.h), so that none can hold up the others.
//
// What a joined process gets is what the agent has: namespaces, no_new_privs, no capability that
// the instance does not have, limits and control group; the seccomp filter is the instance's. The
// payload may attack the agent, whose user it shares; all that it would gain is what the joined
// processes have, which it has itself.
#pragma once

#include "frontend/init/record.h"
#include "policy/problem.h"

namespace postern::init {

// Forks. Returns in a process that is to become a payload, with its record: the instance's script
// first, then whoever joins. The agent itself ends with the instance and does not return.
// Error: the first fork failed.
Outcome<LaunchRecord> become_agent(const LaunchRecord& instance);

// The record of a process that joins: what is the instance's stays so.
LaunchRecord joined_record(LaunchRecord wish, const LaunchRecord& instance);

}  // namespace postern::init
