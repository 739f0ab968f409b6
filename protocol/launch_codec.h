// The request's wire form (protocol/launch.capnp). The only file that sees Cap'n Proto is
// launch_codec.cc; no exception leaves it.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "protocol/base/result.h"
#include "protocol/launch_request.h"
#include "protocol/refusal.h"

namespace postern {

// Refusal: what check_form refuses, or kMalformedRequest where the message would be longer than
// kMaxRequestBytes.
[[nodiscard]] Result<std::vector<std::byte>, Refusal> encode(const LaunchRequest& request,
                                                             std::size_t descriptors) noexcept;

// BOUNDARY: a caller's bytes become a request here. Pure. What it returns passed check_form for
// `descriptors`, and `bytes` is exactly what encode makes of it: no byte is left without meaning.
// Refusal: kMalformedRequest, kProtocolVersion, kDescriptorCount.
[[nodiscard]] Result<LaunchRequest, Refusal> decode(std::span<const std::byte> bytes,
                                                    std::size_t descriptors) noexcept;

}  // namespace postern
