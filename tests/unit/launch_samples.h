// Requests that tests start from.
#pragma once

#include "protocol/launch_request.h"

namespace postern {

// Root, init, record and one bind: four descriptors.
inline LaunchRequest sample_request() {
  LaunchRequest request;
  request.root = RootKind::kFuse;
  request.scratch = Scratch::kMountPoints;
  request.init = 1;
  request.record = 2;
  request.mounts.push_back(
      {.operation = Operation::kProc, .flags = kDirectoryTarget, .target = "/proc"});
  request.mounts.push_back({.operation = Operation::kBind,
                            .flags = kDirectoryTarget,
                            .descriptor = 3,
                            .target = "/data"});
  return request;
}

}  // namespace postern
