// Signatures of images in registries as cosign makes them, verified with a public key.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontend/net/registry.h"
#include "policy/signature/pem_key.h"

namespace postern::imagebuild {

// Reads a PEM public key: what `cosign generate-key-pair` writes as cosign.pub.
Outcome<signature::PublicKey> read_cosign_key(const std::string& path);

// Whether the registry holds a signature by `key` over `digest` ("sha256:…" of a manifest or an
// index). Error: there is none that holds.
Outcome<> verify_cosign(net::Registry& registry,
                        const std::string& digest,
                        const signature::PublicKey& key);

// ---- pure

struct CosignSignature {
  std::string payload;     // digest of the blob that is signed
  std::uint64_t size = 0;  // of it
  std::string signature;   // base64
};

// The signatures that a manifest of a ".sig" tag lists; what is of another kind is left out.
Outcome<std::vector<CosignSignature>> parse_cosign_manifest(std::string_view text);

// Whether a payload ("simple signing") is about this digest and nothing else.
Outcome<> check_cosign_payload(std::string_view text, const std::string& digest);

}  // namespace postern::imagebuild
