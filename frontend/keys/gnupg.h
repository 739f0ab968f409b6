// A directory of OpenPGP keys, handled by GnuPG through gpgme.
//
// Operations on public keys start no agent. Those on secret keys start a gpg-agent of their own for
// this directory, take passphrases by loopback (never from a pinentry of the desktop), and end it
// before they return.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/keys/paths.h"
#include "policy/problem.h"

struct gpgme_context;

namespace postern::keys {

struct KeyInfo {
  std::string fingerprint;   // 40 upper-case hex digits
  std::string user;          // primary user id: "Name (comment) <mail>"
  std::int64_t created = 0;  // Unix seconds
  std::int64_t expires = 0;  // 0 = never
  unsigned bits = 0;
  bool usable = true;  // neither revoked nor expired
};

struct Imported {
  std::vector<std::string> fingerprints;  // new or changed keys, upper case
  int considered = 0;
  int unchanged = 0;
  int secret = 0;       // secret keys that are new
  int secret_read = 0;  // secret keys in what was given
};

struct NewKey {
  std::string name;
  std::string comment;
  std::string email;
  std::string passphrase;  // empty: unprotected
  unsigned bits = 4096;
};

// Asked for the passphrase of the key that the hint names; `again` after a wrong one. None: give
// up.
using PassphraseSource =
    std::function<std::optional<std::string>(const std::string& hint, bool again)>;

class KeyDirectory {
 public:
  // The user's: made with mode 0700 if it is not there, and then filled from Apptainer's files
  // pgp-public and pgp-secret in the same place or in ~/.apptainer/keys.
  static Outcome<KeyDirectory> open_local(const std::string& path);
  // Somebody's, to be read only; it may be missing.
  static Outcome<KeyDirectory> open_for_reading(const std::string& path);
  // One that is gone with the object.
  static Outcome<KeyDirectory> open_temporary();

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  // The same directory, as GnuPG is told of it (a long path has a short name).
  [[nodiscard]] const std::string& home() const noexcept { return home_; }

  // In the order of the ring: the index of a key is its number for -k.
  Outcome<std::vector<KeyInfo>> list(bool secret) const;
  // Binary or armored, one or many keys. Error: none of them can be read.
  Outcome<Imported> import(const std::string& bytes);
  // `fingerprint` empty: all keys. Error: no such key.
  Outcome<std::string> export_public(const std::string& fingerprint, bool armor) const;
  Outcome<std::string> export_secret(const std::string& fingerprint,
                                     bool armor,
                                     const PassphraseSource& ask);
  // Error: no such key; the public part of a key whose secret part stays.
  Outcome<> remove(const std::string& fingerprint, bool public_part, bool secret_part);
  // RSA: a primary key that certifies and signs, a subkey that encrypts, both under the passphrase.
  // Returns the fingerprint.
  Outcome<std::string> generate(const NewKey& key);
  // `old` empty: the key has none now.
  Outcome<> change_passphrase(const std::string& fingerprint,
                              const std::string& old,
                              const std::string& fresh);
  // The text, clear-signed with SHA-2.
  Outcome<std::string> clear_sign(const std::string& fingerprint,
                                  const std::string& text,
                                  const PassphraseSource& ask);

 private:
  struct Release {
    void operator()(gpgme_context* context) const noexcept;
  };

  using Context = std::unique_ptr<gpgme_context, Release>;
  class Agent;

  KeyDirectory() = default;
  Outcome<Context> context(bool armor = false) const;
  Outcome<> adopt_apptainer_keys();
  Outcome<> restore_ring() const;
  Outcome<> shorten_home();
  [[nodiscard]] bool has_ring() const;

  std::string path_;  // as the user knows it
  std::string home_;  // the same directory, as GnuPG gets it
  std::optional<TemporaryDirectory> temporary_;
};

}  // namespace postern::keys
