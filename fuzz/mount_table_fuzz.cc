// /proc/self/mountinfo: users choose names of mount points, and so bytes of it.
#include <string_view>

#include "frontend/plan/host_mounts.h"
#include "fuzz/target.h"
#include "policy/config/unwritable.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  for (const std::string& place : postern::plan::parse_host_mounts(text)) {
    if (!place.starts_with('/') || place == "/" || place.starts_with("/proc/")) {
      __builtin_trap();
    }
  }
  static_cast<void>(postern::config::MountTable::parse(text).shows(0));
  return 0;
}
