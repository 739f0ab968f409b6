// The commands of postern-crypt. Each returns when all is done or nothing is changed.
#pragma once

#include <string>

#include "frontend/crypt/key_source.h"
#include "policy/problem.h"

namespace postern::crypt {

// A copy of an image with its root partition encrypted (encrypt) or in the clear (decrypt).
// Signatures and seals, which would no longer match, are left out with a warning.
struct ConvertOptions {
  KeyOptions key;
  std::string input;
  std::string output;
  bool force = false;  // replace an existing output
  KdfLimits limits;
};

Outcome<Ok> encrypt(const ConvertOptions& options);
Outcome<Ok> decrypt(const ConvertOptions& options);

// Changes who can open an encrypted image; the data stays as it is.
struct RekeyOptions {
  KeyOptions key;      // opens it now
  KeyOptions new_key;  // shall open it
  bool keep = false;   // add the new key and leave the present one in place
  bool drop_signatures = false;
  std::string image;
  KdfLimits limits;
};

Outcome<Ok> rekey(const RekeyOptions& options);

// For a start: writes the volume key into `key_fd` (a memfd, which is sealed) and the geometry as
// one line "SECTOR-BYTES DATA-OFFSET DATA-BYTES IV-OFFSET" to standard output. Of a gocryptfs
// container, whose configuration `gocryptfs_fd` holds, it is the key of the contents, and no line.
struct UnlockOptions {
  KeyOptions key;
  int image_fd = -1;
  int key_fd = -1;
  int gocryptfs_fd = -1;
  KdfLimits limits;
};

Outcome<Ok> unlock(const UnlockOptions& options);

}  // namespace postern::crypt
