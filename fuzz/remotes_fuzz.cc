// remote.yaml and credential files.
#include <string>
#include <string_view>

#include "frontend/net/credentials.h"
#include "frontend/net/remotes.h"
#include "fuzz/target.h"

namespace net = postern::net;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto remotes = net::parse_remotes(text, "remote.yaml")) {
    // A text that looks like an alias is refused also where it is quoted.
    const std::string written = net::remotes_text(*remotes);
    const auto again = net::parse_remotes(written, "written");
    const bool odd = written.find_first_of("&*") != std::string::npos;
    const bool same =
        again && again->remotes == remotes->remotes && again->active == remotes->active;
    if (!same && !(odd && !again)) {
      __builtin_trap();
    }
  }
  if (const auto file = net::CredentialFile::parse(text, "config.json")) {
    (void)file->keys();
  }
  return 0;
}
