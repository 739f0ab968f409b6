// The user namespace in which a build unpacks, runs programs, reads what they left and removes it.
#pragma once

#include "policy/problem.h"

namespace postern::imagebuild {

struct NamespaceOptions {
  bool ignore_subordinate_ids = false;  // --ignore-subuid
  bool say = false;                     // which one it is
};

// Makes the calling process root of such a namespace, unless it is root already: with the caller's
// subordinate ids if there are any, else with its own id alone. One way: the process stays in it.
// Call it before the first thread is started (setns(2)). Error: this host gives users none.
Outcome<> enter_build_namespace(const NamespaceOptions& options);

}  // namespace postern::imagebuild
