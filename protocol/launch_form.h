// The form of a LaunchRequest: everything about it that can be judged without knowing the site, the
// caller or the files. Pure; the decoder, the judge and user-namespace mode all ask here.
#pragma once

#include <cstddef>
#include <string_view>

#include "protocol/base/result.h"
#include "protocol/launch_request.h"
#include "protocol/refusal.h"

namespace postern {

// Every enumeration has a value of its own, every bound of protocol/limits.h holds, each of the
// `descriptors` descriptors is used exactly once and the root is descriptor 0, and fields that
// exclude each other are not both set.
// Refusal: kMalformedRequest or kDescriptorCount, item = the offending mount or layer.
[[nodiscard]] Result<Ok, Refusal> check_form(const LaunchRequest& request,
                                             std::size_t descriptors) noexcept;

// An absolute path below the root in its normal form: no empty, "." or ".." component, no trailing
// slash, no NUL; at most kMaxTargetBytes with its NUL.
[[nodiscard]] bool is_target(std::string_view path) noexcept;

// hostname(7): letters, digits, hyphens and dots; no hyphen or dot at the beginning, no hyphen at
// the end; at most kMaxHostnameBytes.
[[nodiscard]] bool is_hostname(std::string_view name) noexcept;

// Whether the operation takes a descriptor of the caller's.
[[nodiscard]] bool takes_descriptor(Operation operation) noexcept;

}  // namespace postern
