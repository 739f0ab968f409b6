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
// Time: opening costs two executions of gpg (about 3 ms each; alone, one), a check two more.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "policy/problem.h"
#include "policy/signature/clear_sign.h"
#include "protocol/base/unique_fd.h"

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
  // A directory that is missing or without a ring is a keyring without keys, and GnuPG is not
  // started for it (as root it would write an empty one there). Error: GnuPG cannot be used.
  static Outcome<PgpKeyring> open(const std::string& directory, KeyOrigin origin);

  // The same where the process opens no other: one execution of gpg less. Changes PATH and
  // GNUPGHOME of its environment; call it while there is one thread.
  static Outcome<PgpKeyring> open_alone(const std::string& directory, KeyOrigin origin);

  // The same in a process of its own, made now, for a caller that is about to forbid itself to
  // execute anything (the judge): after this, a check only writes to and reads from channel().
  // The process has no other descriptor, starts GnuPG when it is first asked, and ends when the
  // PgpKeyring is gone, also if its owner is killed; nobody has to wait for it. Call it while the
  // caller has one thread.
  static Outcome<PgpKeyring> open_in_child(const std::string& directory, KeyOrigin origin);

  // Good means: made by a key of this ring that may sign; with SHA-2; neither the key (primary,
  // signing, primary user id) nor the signature is expired, revoked or dated in the future.
  // Error: GnuPG cannot be used.
  Outcome<PgpCheck> check(const ClearSigned& message) const;

  [[nodiscard]] KeyOrigin origin() const noexcept { return origin_; }

  // The socket to the other process; -1 where there is none.
  [[nodiscard]] int channel() const noexcept { return channel_.get(); }

 private:
  struct Release {
    void operator()(gpgme_context* context) const noexcept;
  };

  // Of gpgme, for a program and a keyring's directory.
  using MakeContext = Outcome<gpgme_context*> (*)(const std::string&, const std::string&);

  PgpKeyring() = default;
  static Outcome<PgpKeyring> open(const std::string& directory, KeyOrigin origin, MakeContext make);

  std::unique_ptr<gpgme_context, Release> context_;  // in this process
  UniqueFd channel_;                                 // or to the other one
  KeyOrigin origin_ = KeyOrigin::kLocal;
};

// The text of the gpg.conf above.
std::string_view keyring_options();

// gpgme's own start, once a process, without its search for programs that are not needed. Error:
// no gpg on this host. The result is the program's path.
Outcome<std::string> start_gpgme();

}  // namespace postern::signature
