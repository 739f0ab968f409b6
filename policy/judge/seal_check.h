// What the judge reads of a sealed root file system must be what the seal covers.
#pragma once

#include "policy/judge/facts.h"
#include "policy/snapshot/snapshot.h"

namespace postern::judge {

// Checks the start of the root file system, where the judge looks at it (the LUKS2 header, or the
// block with the superblock), against the hash tree of facts.verity. Sets facts.problem to kSeal if
// they differ. Nothing happens for an image without a seal, or with a problem already.
void check_seal(Snapshot& image, ImageFacts& facts);

}  // namespace postern::judge
