// What `inspect` shows of a hostile image: text and JSON that cannot steer a terminal.
#include <string>
#include <string_view>

#include <sys/mman.h>

#include <unistd.h>

#include "frontend/inspect/collect.h"
#include "fuzz/target.h"
#include "protocol/base/unique_fd.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace inspect = postern::inspect;
  const postern::UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
  if (!file.valid() || ::write(file.get(), data, size) != static_cast<ssize_t>(size)) {
    return 0;
  }
  // SAFETY: bytes are chars.
  static_cast<void>(
      inspect::parse_metadata({reinterpret_cast<const char*>(data), size}).has_value());
  const auto metadata = inspect::inspect("/proc/self/fd/" + std::to_string(file.get()));
  if (metadata) {
    const auto all = inspect::select(*metadata, {.all = true});
    // What is printed as JSON reads as metadata again.
    if (!all || !inspect::parse_metadata(inspect::to_json(*all))) {
      __builtin_trap();
    }
  }
  return 0;
}
