// RSA-OAEP wrapping of the secret that unlocks an encrypted image, in Apptainer's layout: SHA-256
// for label hash and MGF1, empty label, pieces of (modulus − 66) bytes, DER OCTET STRING, PEM
// "MESSAGE".
#pragma once

#include <span>
#include <string>

#include "policy/crypt/luks_header.h"
#include "policy/problem.h"

namespace postern::crypt {

// `pem` holds an RSA public key (PKCS#1 or SubjectPublicKeyInfo) or a private key, whose public
// half is taken. Errors: no such key in it; a modulus below 2048 bits.
Outcome<std::string> wrap_secret(std::span<const std::byte> secret,
                                 const std::string& pem,
                                 const std::string& name);

// `pem` holds an RSA private key (PKCS#1 or PKCS#8; an encrypted one asks for its passphrase on the
// terminal). Errors: not one; the message was wrapped for another key.
Outcome<SecretBytes> unwrap_secret(const std::string& message,
                                   const SecretBytes& pem,
                                   const std::string& name);

}  // namespace postern::crypt
