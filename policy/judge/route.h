// How an image of one's own choice runs in setuid mode: what is left after the rules.
#pragma once

#include <cstdint>
#include <string>

#include "policy/config/site.h"
#include "policy/judge/facts.h"

namespace postern::judge {

enum class Route : std::uint8_t {
  kKernel,     // the kernel mounts it
  kUserSpace,  // the caller's postern-squashfs serves it
  kRefused,
};

// Pure: what decide() says to the frontend's requests, first for a mount by the kernel, then, where
// the kernel may not or cannot, for a server of the caller's. `device_mapper`: the kernel has it.
[[nodiscard]] Route route_of(const Facts& facts,
                             const config::SiteConfig& site,
                             bool device_mapper) noexcept;

// The table of postern-security(7): every list, limit, kernel-mount.squashfs and kind of image. A
// line of scdoc each.
[[nodiscard]] std::string route_table();

}  // namespace postern::judge
