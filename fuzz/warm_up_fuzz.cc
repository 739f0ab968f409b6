// What a start reads ahead: programs, their ELF headers and loaders, scripts and their first lines.
// The corpus holds small images without compression, so that their files' bytes are the fuzzer's to
// change.
#include <sys/mman.h>

#include <unistd.h>

#include "frontend/squashfs/extent.h"
#include "frontend/squashfs/image.h"
#include "frontend/squashfs/warm_up.h"
#include "fuzz/target.h"
#include "protocol/base/unique_fd.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace squashfs = postern::squashfs;
  const postern::UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
  if (!file.valid() || ::write(file.get(), data, size) != static_cast<ssize_t>(size)) {
    return 0;
  }
  const squashfs::Extent extent(file.get(), 0, size);
  for (const char* program : {"", "tool", "/bin/script", "../../bin/sh"}) {
    const auto image = squashfs::Image::open(extent, {.data = 1 << 20, .metadata = 1 << 19});
    if (!image) {
      return 0;
    }
    squashfs::WarmUp(**image, program).run();
  }
  return 0;
}
