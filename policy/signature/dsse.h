// DSSE envelopes (Dead Simple Signing Envelope): the form of signatures by PEM keys.
//
//   {"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":"<base64>",
//    "signatures":[{"keyid":"SHA256:…","sig":"<base64>"}]}
//
// Signed is not the payload alone but its pre-authentication encoding, which binds the type:
//   DSSEv1 SP <bytes of type> SP <type> SP <bytes of payload> SP <payload>
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"
#include "policy/signature/pem_key.h"

namespace postern::signature {

inline constexpr std::string_view kDssePayloadType = "application/vnd.sylabs.sif-metadata+json";
inline constexpr std::size_t kMaxDsseSignatures = 64;

struct Envelope {
  struct Signature {
    std::string key_id;  // may be empty
    std::vector<std::uint8_t> bytes;
  };

  std::string payload;  // decoded: the metadata JSON
  std::vector<Signature> signatures;
};

// Whether the data is meant to be an envelope: a JSON object begins it.
bool looks_like_dsse(std::string_view data);

// Errors: not strict JSON (policy/json), another payload type, bad base64, no signature.
Outcome<Envelope> parse_envelope(std::string_view data);

// The first of `keys` that made one of the signatures; null where none did. A signature with a key
// id is tried with that key only.
const PublicKey* find_signer(const Envelope& envelope, const std::vector<PublicKey>& keys);

std::string pre_authentication_encoding(std::string_view type, std::string_view payload);

// An envelope with one signature.
Outcome<std::string> sign_envelope(std::string_view payload, const PrivateKey& key);

}  // namespace postern::signature
