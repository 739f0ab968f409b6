// apptainer.conf and capability.json of another installation: what is imported is a configuration
// of ours.
#include <string_view>

#include "frontend/config/import.h"
#include "fuzz/target.h"
#include "policy/config/site.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace config = postern::config;
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  if (const auto imported = config::import_site(text, "apptainer.conf")) {
    for (const config::Key& key : config::keys()) {
      static_cast<void>(config::value_text(imported->site, key));
    }
  }
  static_cast<void>(config::import_capabilities(text, "capability.json").has_value());
  return 0;
}
