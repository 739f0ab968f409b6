// postern.toml and capability.toml: whatever parses is in its bounds, and an error names its place.
#include <string_view>

#include "fuzz/target.h"
#include "policy/config/capabilities.h"
#include "policy/config/site.h"
#include "protocol/limits.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace config = postern::config;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto site = config::parse_site_config(text, "postern.toml")) {
    const bool bounded = site->session_max_size_mib >= 1 &&
                         site->session_max_size_mib <= postern::kMaxSessionBytes / (1024 * 1024) &&
                         site->crypt_max_threads >= 1 && site->crypt_max_threads <= 4;
    if (!bounded) {
      __builtin_trap();
    }
    // What is written back reads as the same value.
    for (const config::Key& key : config::keys()) {
      if (config::value_text(*site, key).empty()) {
        __builtin_trap();
      }
    }
  } else if (!site.error().what.starts_with("postern.toml:")) {
    __builtin_trap();
  }
  (void)config::parse_capability_config(text, "capability.toml").has_value();
  return 0;
}
