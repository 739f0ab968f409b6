// Checking a few bytes of a sealed partition against its seal, without reading the partition: the
// blocks that hold them, and the hash blocks between these and the root hash.
#pragma once

#include "policy/problem.h"
#include "policy/snapshot/snapshot.h"
#include "protocol/verdict.h"

namespace postern::seal {

// Whether `part`, which lies inside `partition`, is what the seal's root hash says. What is read is
// kept in `bytes`: who fetches `part` afterwards gets the bytes that were checked. Error: they
// differ, or the hash tree does.
[[nodiscard]] Outcome<> check_covered(Snapshot& bytes,
                                      const VerityGeometry& seal,
                                      const Extent& partition,
                                      const Extent& part);

}  // namespace postern::seal
