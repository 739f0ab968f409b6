// OpenPGP signatures checked by GnuPG (through gpgme) against one directory of public keys: what
// the commands of the caller use. The judge has a table instead (policy/signature/pgp_table.h).
//
// The directory is a GNUPGHOME: `pubring.kbx`, or `pubring.gpg`, which is nothing but exported keys
// one after the other, and a `gpg.conf` that makes GnuPG leave no trace (keyring_options()). With
// it a check needs no writable directory, no agent, no lock file and no network.
//
// Time: opening costs two executions of gpg (about 3 ms each), a check two more.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "policy/problem.h"
#include "policy/signature/pgp.h"

struct gpgme_context;

namespace postern::signature {

class GnupgRing final : public PgpRing {
 public:
  // A directory that is missing or without a ring is a keyring without keys, and GnuPG is not
  // started for it (as root it would write an empty one there). Error: GnuPG cannot be used.
  static Outcome<std::unique_ptr<GnupgRing>> open(const std::string& directory, KeyOrigin origin);

  [[nodiscard]] Outcome<PgpCheck> check(const ClearSigned& message) const override;

 private:
  struct Release {
    void operator()(gpgme_context* context) const noexcept;
  };

  explicit GnupgRing(KeyOrigin origin) : origin_(origin) {}

  std::unique_ptr<gpgme_context, Release> context_;
  KeyOrigin origin_;
};

// The text of the gpg.conf above.
std::string_view keyring_options();

// gpgme's own start, once a process, without its search for programs that are not needed. Error:
// no gpg on this host. The result is the program's path.
Outcome<std::string> start_gpgme();

}  // namespace postern::signature
