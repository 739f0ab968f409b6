// What the site's keys say about an image: ECL and trust.
#pragma once

#include "policy/config/trusted_file.h"
#include "policy/ecl/ecl.h"
#include "policy/judge/facts.h"
#include "policy/signature/verify.h"
#include "policy/snapshot/snapshot.h"

namespace postern::judge {

class Signatures {
 public:
  // ORDER: before the sandbox. Reads the keyring `directory`, and finds the rule's directory that
  // the image in `image` lies in.
  [[nodiscard]] static config::Trusted<Signatures> prepare(const std::string& directory,
                                                           const ecl::EclConfig& list,
                                                           int image);

  // In the sandbox. Sets facts.ecl, and the verity geometry of a seal that a valid signature
  // covers.
  void look_at(Snapshot& image, const ecl::EclConfig& list, Facts& facts) const;

 private:
  Signatures() = default;

  signature::KeyMaterial keys_;
  std::string directory_;  // of the rule; empty: none
};

}  // namespace postern::judge
