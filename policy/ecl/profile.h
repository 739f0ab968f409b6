// What an image gets, by who signed it: [[profile]] of ecl.toml. A profile only takes away: it
// narrows the site's settings and asks for namespaces.
//
//   name = "boxed"          for messages
//   execgroup = "TAG"       for the images that the rule with this tagname admits; or
//   keyfp, keysha256 = […]  for images that the list admits and one of these keys signed; or
//   unsigned = true         for what the list does not admit, if no forbidden key signed it: it
//   runs
//                           with this profile instead of being refused
//   require = ["pid", "ipc", "uts", "net"]   new namespaces, asked for or not
//   deny = ["user-binds", "overlay", "devices", "capabilities", "home", "tmp"]
//   binds = ["/data"]       what users bind must lie at or below one of these
//
// The first profile that fits counts. Unlike in the rest of the file, a key that is not known is an
// error: a profile with a typing mistake would take away less.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/config/site.h"

namespace postern::ecl {

enum Denied : std::uint32_t {
  kDenyUserBinds = 1,
  kDenyOverlay = 2,
  kDenyDevices = 4,  // all but those of a minimal /dev
  kDenyCapabilities = 8,
  kDenyHome = 16,
  kDenyTmp = 32,
};

struct Profile {
  std::string name;
  std::string group;              // tagname of an execgroup; or
  std::vector<std::string> keys;  // identities, as in Group; or
  bool is_for_unsigned = false;
  std::uint32_t require = 0;  // CLONE_NEW… bits
  std::uint32_t deny = 0;
  std::vector<std::string> binds;  // empty: no rule
  unsigned line = 0;               // of the [[profile]] in the file
};

// The settings that are left.
[[nodiscard]] config::SiteConfig narrowed(config::SiteConfig site, const Profile& profile);

// One line: "requires pid,ipc; denies overlay; binds below /data".
[[nodiscard]] std::string describe(const Profile& profile);

// The words of the file; 0 where there is none.
[[nodiscard]] std::uint32_t namespace_bit(std::string_view word) noexcept;
[[nodiscard]] std::uint32_t deny_bit(std::string_view word) noexcept;

}  // namespace postern::ecl
