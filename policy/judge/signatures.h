// What the site's keys say about an image: ECL and trust. Needs GnuPG and all of OpenSSL, which
// cost every start some milliseconds of linking, so it is a program of its own: postern-judge
// becomes postern-judge-keys where signatures can matter. Same code, same input, other libraries.
#pragma once

#include <memory>
#include <vector>

#include "policy/config/trusted_file.h"
#include "policy/config/unwritable.h"
#include "policy/ecl/ecl.h"
#include "policy/judge/facts.h"

namespace postern::judge {

class Signatures {
 public:
  // ORDER: before the sandbox. Reads the keyring `directory`, starts the process that asks GnuPG,
  // and finds the rule's directory that the image in `image` lies in. In postern-judge this
  // executes postern-judge-keys instead, and returns only where that fails.
  [[nodiscard]] static config::Trusted<Signatures> prepare(const std::string& directory,
                                                           const ecl::EclConfig& list,
                                                           int image);

  Signatures(Signatures&&) noexcept;
  Signatures& operator=(Signatures&&) noexcept;
  ~Signatures();

  // Sockets to the process that asks GnuPG: the sandbox leaves them writable.
  [[nodiscard]] std::vector<int> channels() const;

  // In the sandbox. Sets facts.ecl, and the verity geometry of a seal that a valid signature
  // covers.
  void look_at(int image,
               const ecl::EclConfig& list,
               const config::MountTable& mounts,
               Facts& facts) const;

 private:
  struct State;
  explicit Signatures(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace postern::judge
