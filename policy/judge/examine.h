// All that the judge finds out about an image file, from one Snapshot of it.
#pragma once

#include "policy/config/unwritable.h"
#include "policy/ecl/ecl.h"
#include "policy/judge/facts.h"
#include "policy/judge/signatures.h"
#include "policy/snapshot/snapshot.h"

namespace postern::judge {

struct Examination {
  const config::MountTable& mounts;
  const ecl::EclConfig& list;
  const Signatures* signatures = nullptr;  // null: they cannot matter
  int key = -1;                            // the volume key's memfd; -1: none came along
};

// Sets facts.image and facts.ecl for the image file `fd`, whose bytes are `image`. Only what names
// and protects the file (owner, mode, path, mount) comes from `fd`.
void examine(int fd, Snapshot& image, const Examination& with, Facts& facts);

}  // namespace postern::judge
