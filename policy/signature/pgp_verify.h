// Checking one OpenPGP signature with one public key, by OpenSSL alone: no agent, no home, no exec.
//
// Keys: RSA of 1024 to 16384 bits, ECDSA on the curves of NIST and Brainpool, Ed25519: the keys
// that GnuPG signs with, but for DSA.
#pragma once

#include "policy/problem.h"
#include "policy/signature/pgp_packet.h"

namespace postern::signature {

// Whether a key of this kind can be checked. Error: in words why not.
Outcome<> check_key_kind(const KeyBody& key);

// Whether `key` made this signature over `text`, which is followed by the packet's own hashed part.
// Only the mathematics: not time, purpose or trust. Error: it did not, or the signature or key
// is malformed or of a kind that is not supported.
Outcome<> verify_signature(const KeyBody& key, const SignatureBody& signature, PacketBytes text);

}  // namespace postern::signature
