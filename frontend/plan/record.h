// What postern-init is told, and the mount points that only a layer can hold. Both look at the
// mounts in their final order.
#pragma once

#include <string>
#include <vector>

#include "frontend/plan/builder.h"

namespace postern::plan {

// Paths inside the container, as the parts before decided them.
struct Inside {
  std::string home;
  std::vector<std::string> variables;  // of devices: beneath what --env sets
  std::vector<std::string> bound;      // destinations of the user's binds, for POSTERN_BIND
};

// Variables that say what a process is started for, in a container or in an instance that runs.
void add_action_variables(init::LaunchRecord& record, const Action& action);

void add_skeleton(Builder& builder);
Outcome<> add_record(Builder& builder, PayloadEnvironment environment, const Inside& inside);

}  // namespace postern::plan
