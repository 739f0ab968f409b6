// Reading a policy file that nobody but root can have written.
#pragma once

#include <string>

#include "policy/config/site.h"
#include "policy/problem.h"
#include "protocol/base/result.h"
#include "protocol/refusal.h"

namespace postern::config {

// Why a file of the site's policy cannot be relied on: kConfigMissing, kConfigInsecure or
// kConfigMalformed, and the words for the log.
struct ConfigFault {
  RefusalCode code = RefusalCode::kConfigMalformed;
  Problem problem;
};

template <class T = Ok>
using Trusted = Result<T, ConfigFault>;

// The bytes of `path`, an absolute path walked from the directory `root` (the root directory in
// earnest, a directory of its own in tests). Every directory on the way, `root` included, and the
// file itself must belong to root and not be writable by group or others, and none may be a
// symbolic link. Each is checked on the descriptor that the next step starts from, so that
// nothing can be exchanged between check and use.
[[nodiscard]] Trusted<std::string> read_trusted(int root, const std::string& path);

// postern.toml read that way.
[[nodiscard]] Trusted<SiteConfig> load_trusted(int root, const std::string& path);
[[nodiscard]] Trusted<SiteConfig> load_trusted(const std::string& path);

}  // namespace postern::config
