// The bytes of a file as they are now, for one call.
#pragma once

#include "policy/snapshot/snapshot.h"

namespace postern {

class Fresh {
 public:
  explicit Fresh(int fd) : bytes_(fd) {}

  operator Snapshot&() { return bytes_; }  // NOLINT(google-explicit-constructor): stands for it

 private:
  Snapshot bytes_;
};

}  // namespace postern
