// The launch record that postern-init reads: what decodes is what encode would have written.
#include <string>
#include <string_view>

#include "frontend/init/record.h"
#include "fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data),
                               size);  // SAFETY: bytes are chars
  if (const auto record = postern::init::decode(bytes)) {
    if (postern::init::encode(*record) != bytes) {
      __builtin_trap();
    }
  }
  // And a record with these bytes in it survives the journey.
  postern::init::LaunchRecord made;
  made.argv = {std::string(bytes.substr(0, bytes.find('\0')))};
  made.environment = made.argv;
  made.filters.emplace_back(data, data + size / 8 * 8);
  const std::string written = postern::init::encode(made);
  const auto read = postern::init::decode(written);
  if (!read || postern::init::encode(*read) != written) {
    __builtin_trap();
  }
  return 0;
}
