// Finding out about a SIF file what an execution control list asks: who signed it, and how its
// bytes are bound. Used by the judge (which decides), and by `ecl check` and user-namespace mode
// (which foretell the decision).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

#include "policy/config/trusted_file.h"
#include "policy/ecl/ecl.h"
#include "policy/problem.h"
#include "policy/seal/seal.h"
#include "policy/sif/reader.h"
#include "policy/signature/verify.h"

namespace postern::ecl {

// The site's keyring, a directory (`<sysconfdir>/postern/keyring`):
//
//   pubring.gpg   OpenPGP public keys, binary, one after the other (what `gpg --export` writes)
//   pubring.table   the same, compiled: what is read here (policy/signature/pgp_table.h)
//   gpg.conf      for the commands that have GnuPG read pubring.gpg
//   pem/*.pem     public keys for DSSE signatures, or certificates
//   roots.pem     roots that a certificate's chain must end in; intermediates.pem: what may be
//                 between. Without roots.pem certificates are an error: a site does not mean
//                 everybody whom the system's web roots vouch for.
//
// Each part may be missing; `postern key import --global` writes it.
enum class KeyringOwner : std::uint8_t {
  kRoot,  // suid mode: directory, files and parents belong to root and nobody else may write them
  kWhoever,  // advisory: an installation below a home directory
};

// Error: kConfigInsecure (not as `owner` says), or kKeyring: a file in it cannot be used, or
// pubring.gpg is not what the table was made from. Executes nothing.
config::Trusted<signature::KeyMaterial> load_keyring(const std::string& directory,
                                                     KeyringOwner owner);

struct GatherOptions {
  bool legacy = false;                 // EclConfig::legacy_insecure
  unsigned threads = 0;                // for hashing; 1 makes none
  std::uint64_t max_hashed_bytes = 0;  // more is a finding (kUnsealed) before any work; 0: no bound
  signature::HashProgress progress;
  // The file belongs to root and nobody else may write it (config::is_unwritable).
  bool unwritable = false;
};

// Facts and where they come from, for explanations.
struct Gathered {
  ImageFacts facts;  // `directory` is left empty: see locate()
  std::vector<signature::SignatureReport> signatures;
  std::optional<seal::Found> seal;    // of the root partition, and covered by a valid signature
  std::vector<std::string> left_out;  // files of the keyring whose certificates are out of date
};

// Checks the signatures of every group against the site's keys. A sealed root partition is not
// read (its blocks are checked when they are); everything else is hashed. `bytes` is what `image`
// was read from; the objects' data cannot be fetched from it any more.
Gathered gather(const sif::Image& image,
                Snapshot& bytes,
                const signature::KeyMaterial& keys,
                const GatherOptions& options);

// The directory of `config` that the open file lies in: there is a file of its name in it, and it
// is this file (device and inode). The name alone would not do: in a mount namespace of their own,
// users mount what they like where they like. Empty: in none of them. Needs the right to search
// those directories.
std::string locate(const EclConfig& config, int fd);

}  // namespace postern::ecl
