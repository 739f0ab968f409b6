// From a request to the verdict that executes it, as asked: tables and arena, no policy. The judge
// calls it once policy has said yes; user-namespace mode, where policy is advisory, calls it alone.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "protocol/base/result.h"
#include "protocol/launch_request.h"
#include "protocol/refusal.h"
#include "protocol/verdict.h"

namespace postern::judge {

// Fills `verdict` with an allowing verdict for `request`, which came with `descriptors`
// descriptors. A scratch size of 0 becomes kDefaultSessionBytes. What only the image can tell
// (extent, verity, crypt) stay empty: the caller fills them in.
// Refusal: what check_form (protocol/launch_form.h) refuses; kMalformedRequest also where the
// texts do not fit the arena, item = the first mount that did not. Then `verdict` is a refusal.
[[nodiscard]] Result<Ok, Refusal> verdict_from_request(const LaunchRequest& request,
                                                       std::size_t descriptors,
                                                       Verdict& verdict) noexcept;

// What of a verdict is sent, in this order: as much as is used.
std::array<std::span<const std::byte>, 3> wire_form(const Verdict& verdict) noexcept;

// Makes `verdict` a well-formed "no" that carries nothing else.
void refuse(Refusal refusal, Verdict& verdict) noexcept;

}  // namespace postern::judge
