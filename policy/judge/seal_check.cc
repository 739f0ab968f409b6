#include "policy/judge/seal_check.h"

#include "policy/crypt/luks2.h"
#include "policy/seal/cover.h"

namespace postern::judge {

void check_seal(Snapshot& image, ImageFacts& facts) {
  if (facts.problem != RefusalCode::kNone || !facts.verity) {
    return;
  }
  const Extent partition{.offset = facts.offset, .bytes = facts.bytes};
  // A superblock lies in the first block (its 96 bytes are at the start of the partition).
  Extent part{.offset = facts.offset, .bytes = 1};
  if (facts.encrypted) {
    const Outcome<Extent> header = crypt::luks2_extent(image, partition);
    if (!header) {
      facts.problem = RefusalCode::kCryptHeader;
      return;
    }
    part = *header;
  }
  if (!seal::check_covered(image, *facts.verity, partition, part)) {
    facts.problem = RefusalCode::kSeal;
  }
}

}  // namespace postern::judge
