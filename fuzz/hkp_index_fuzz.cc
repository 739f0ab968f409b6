// What a key server says that it has.
#include <string_view>

#include "frontend/keys/hkp.h"
#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const postern::keys::FoundKey& key : postern::keys::parse_index(text)) {
    if (key.fingerprint.empty()) {
      __builtin_trap();
    }
  }
  (void)postern::keys::server_address(std::string(text));
  return 0;
}
