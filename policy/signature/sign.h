// What a signature looks like as an object of an image.
#pragma once

#include <array>
#include <cstdint>

#include "policy/sif/writer.h"

namespace postern::signature {

// Linked to `group`, itself in no group, without a name, as other SIF writers make it.
// `fingerprint`: of the primary OpenPGP key, zeros for a DSSE envelope.
inline sif::ObjectInput signature_object(
    std::uint32_t group, const std::array<std::uint8_t, sif::kFingerprintBytes>& fingerprint) {
  sif::ObjectInput out;
  out.type = sif::DataType::kSignature;
  out.group = 0;
  out.link = group;
  out.link_is_group = true;
  out.extra = sif::SignatureInfo{sif::HashType::kSha256, fingerprint};
  return out;
}

}  // namespace postern::signature
