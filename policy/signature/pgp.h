// What an OpenPGP signature is checked against: a ring of public keys. Two kinds exist: GnuPG's
// (policy/signature/gnupg_ring.h), for what users have, and the site's compiled table
// (policy/signature/pgp_table.h), for the judge.
#pragma once

#include <cstdint>
#include <string>

#include "policy/problem.h"
#include "policy/signature/clear_sign.h"

namespace postern::signature {

enum class KeyOrigin : std::uint8_t {
  kGlobal,  // the site's keyring
  kLocal,   // the user's
  kRemote,  // fetched from a key server for this one check
};

struct PgpSigner {
  std::string fingerprint;  // of the primary key, 40 lower-case hex digits
  std::string name;         // primary user id, "unknown" where the key has none
  KeyOrigin origin = KeyOrigin::kLocal;
};

struct PgpCheck {
  enum class Result : std::uint8_t {
    kGood,
    kUnknownKey,  // not in this keyring: try another
    kBad,         // `why` says what is wrong
  };
  Result result = Result::kBad;
  std::string why;
  PgpSigner signer;  // kGood; for kBad as far as it is known
};

class PgpRing {
 public:
  PgpRing() = default;
  PgpRing(const PgpRing&) = delete;
  PgpRing& operator=(const PgpRing&) = delete;
  virtual ~PgpRing() = default;

  // Good means: made by a key of this ring that may sign; with SHA-2; neither the key (primary,
  // signing, primary user id) nor the signature is expired, revoked or dated in the future.
  // Error: the ring cannot be used.
  [[nodiscard]] virtual Outcome<PgpCheck> check(const ClearSigned& message) const = 0;
};

}  // namespace postern::signature
