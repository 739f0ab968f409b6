// Sealing a partition of an image that is open for changes.
#pragma once

#include <cstdint>

#include "policy/problem.h"
#include "policy/seal/tree.h"
#include "policy/sif/writer.h"

namespace postern::seal {

// Adds hash tree and seal of `partition` to its group; finish() of the writer remains the caller's.
// Errors: the partition is in no group, or not a whole number of 4096-byte blocks. Signatures that
// the group has already do not cover what is added: seal first, sign after.
Outcome<> add_seal(sif::Writer& writer,
                   const sif::Descriptor& partition,
                   const TreeProgress& progress = {});

}  // namespace postern::seal
