// The text that a SIF signature signs: digests of the image's parts, as one line of JSON.
//
//   {"version":1,"header":{"digest":"sha256:…"},
//    "objects":[{"relativeId":0,"descriptorDigest":"sha256:…","objectDigest":"sha256:…"},…]}
//
// Ids are relative to the lowest id of the group, so that a group keeps its signatures when an
// image is renumbered.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"
#include "policy/signature/digest.h"

namespace postern::signature {

struct ObjectDigests {
  std::uint32_t relative_id = 0;
  Digest descriptor;
  Digest object;
};

struct Metadata {
  Digest header;
  std::vector<ObjectDigests> objects;
};

// Strict where no known writer is hurt by it: version must be 1, every digest present and well
// formed, no relative id twice, no repeated member, nesting at most 8, at most 4 MiB. As other
// readers: member names in any case, unknown members ignored, no objects = an empty list.
Outcome<Metadata> parse_metadata(std::string_view json);

// The line that is signed, without a line end. Objects must be in ascending order.
std::string write_metadata(const Metadata& metadata);

}  // namespace postern::signature
