#include "policy/judge/examine.h"

#include "policy/judge/gather.h"
#include "policy/judge/seal_check.h"
#include "policy/judge/volume_key.h"

namespace postern::judge {

void examine(int fd, Snapshot& image, const Examination& with, Facts& facts) {
  // ORDER: the signatures last. They stream what they cover, and a byte is read once.
  facts.image = image_facts(fd, image, with.mounts);
  check_seal(image, *facts.image);
  if (facts.image->problem == RefusalCode::kNone && facts.image->encrypted && with.key >= 0) {
    add_crypt(image, with.key, *facts.image);
  }
  if (facts.image->problem == RefusalCode::kNone && with.signatures != nullptr) {
    with.signatures->look_at(image, with.list, facts);
  }
}

}  // namespace postern::judge
