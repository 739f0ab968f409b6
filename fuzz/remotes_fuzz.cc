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
    const auto again = net::parse_remotes(net::remotes_text(*remotes), "written");
    if (!again || again->remotes != remotes->remotes || again->active != remotes->active) {
      __builtin_trap();
    }
  }
  if (const auto file = net::CredentialFile::parse(text, "config.json")) {
    (void)file->keys();
  }
  return 0;
}
