// The key of a gocryptfs container, from its gocryptfs.conf and a passphrase: scrypt makes a key of
// the passphrase, which opens the master key, and HKDF makes of that the key of the contents
// (gocryptfs, "Cryptography"). What Apptainer makes: HKDF, GCMIV128, PlaintextNames.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "policy/crypt/luks_header.h"
#include "policy/problem.h"

namespace postern::crypt {

// 32 bytes. Errors: not such a file; more memory asked for than `limits` allow; another passphrase.
Outcome<SecretBytes> gocryptfs_key(std::string_view configuration,
                                   std::span<const std::byte> passphrase,
                                   const KdfLimits& limits);

}  // namespace postern::crypt
