// OpenPGP signatures checked by GnuPG (through gpgme) against one directory of public keys.
//
// The directory is a GNUPGHOME: `pubring.kbx`, or `pubring.gpg`, which is nothing but exported keys
// one after the other, and a `gpg.conf` that makes GnuPG leave no trace:
//
//     lock-never  trust-model always  no-auto-check-trustdb  no-permission-warning  no-autostart
//     no-random-seed-file
//
// With it a check needs no writable directory, no agent, no lock file and no network, and works as
// a user who owns nothing (the judge). write_keyring_options() writes that file.
//
// Time: opening costs one execution of gpg (about 3 ms), a check two more.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "policy/problem.h"
#include "policy/signature/clear_sign.h"

struct gpgme_context;

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

class PgpKeyring {
 public:
  // An empty or missing directory is a keyring without keys. Error: GnuPG cannot be used.
  static Outcome<PgpKeyring> open(const std::string& directory, KeyOrigin origin);

  // Good means: made by a key of this ring that may sign; with SHA-2; neither the key (primary,
  // signing, primary user id) nor the signature is expired, revoked or dated in the future.
  // Error: GnuPG cannot be used.
  Outcome<PgpCheck> check(const ClearSigned& message) const;

  [[nodiscard]] KeyOrigin origin() const noexcept { return origin_; }

 private:
  struct Release {
    void operator()(gpgme_context* context) const noexcept;
  };
  PgpKeyring() = default;

  std::unique_ptr<gpgme_context, Release> context_;
  KeyOrigin origin_ = KeyOrigin::kLocal;
};

// The text of the gpg.conf above.
std::string_view keyring_options();

// gpgme's own start, once a process, without its search for programs that are not needed. Error:
// no gpg on this host. The result is the program's path.
Outcome<std::string> start_gpgme();

}  // namespace postern::signature
