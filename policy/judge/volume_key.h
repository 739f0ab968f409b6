// Whether the key that came with a request is the key of the encrypted image.
#pragma once

#include "policy/judge/facts.h"
#include "policy/snapshot/snapshot.h"

namespace postern::judge {

// Sets facts.crypt if `key` is a memfd of exactly 64 bytes that nobody can change any more
// (F_SEAL_WRITE, GROW, SHRINK), and fits the LUKS2 header at the start of the root file system.
// Otherwise sets facts.problem: kCryptHeader or kCryptKey.
void add_crypt(Snapshot& image, int key, ImageFacts& facts);

}  // namespace postern::judge
