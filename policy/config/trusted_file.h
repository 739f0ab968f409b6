// Reading a policy file that nobody but root can have written.
#pragma once

#include <string>

#include "policy/config/site.h"
#include "policy/problem.h"
#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"
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

// A directory that nobody but root can change anything in. Several files of one are read for the
// price of one walk.
class TrustedDirectory {
 public:
  // `path`, absolute, walked from the directory `root` (the root directory in earnest, a directory
  // of its own in tests). Every directory on the way, `root` included, must belong to root and not
  // be writable by group or others, and none may be a symbolic link. Each is checked on the
  // descriptor that the next step starts from, so that nothing can be exchanged between check and
  // use.
  [[nodiscard]] static Trusted<TrustedDirectory> open(int root, const std::string& path);

  // The bytes of a file in it, for which the same must hold.
  [[nodiscard]] Trusted<std::string> read(const std::string& file) const;

  // The name of a file in it, for messages.
  [[nodiscard]] std::string path(const std::string& file) const;

 private:
  UniqueFd here_;
  std::string name_;
};

// The bytes of one file by its absolute path.
[[nodiscard]] Trusted<std::string> read_trusted(int root, const std::string& path);

// postern.toml read that way.
[[nodiscard]] Trusted<SiteConfig> load_trusted(const TrustedDirectory& directory,
                                               const std::string& file);
[[nodiscard]] Trusted<SiteConfig> load_trusted(int root, const std::string& path);
[[nodiscard]] Trusted<SiteConfig> load_trusted(const std::string& path);

}  // namespace postern::config
