// What opens a gocryptfs container, before its key is known: postern-squashfs reads the file in its
// sandbox, since nobody has looked at these bytes yet.
#pragma once

#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::start {

// A memfd with the text of gocryptfs.conf. postern-squashfs has said on standard error why where it
// fails; the Problem then has no words.
Outcome<UniqueFd> read_gocryptfs_configuration(const plan::ImageServer& image);

}  // namespace postern::start
