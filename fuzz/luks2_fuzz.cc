// LUKS2 headers as the judge reads them: bytes of a file, and the metadata text alone.
#include <string_view>

#include <sys/mman.h>

#include <unistd.h>

#include "fuzz/target.h"
#include "policy/crypt/luks2.h"
#include "protocol/base/unique_fd.h"

namespace {

constexpr std::uint64_t kPartition = 64ULL * 1024 * 1024;

void check(const postern::Outcome<postern::crypt::Luks2>& header) {
  if (!header) {
    return;
  }
  const postern::CryptGeometry& geometry = header->geometry;
  const bool sane = geometry.key_descriptor == postern::kNoDescriptor &&
                    (geometry.sector_bytes == 512 || geometry.sector_bytes == 4096) &&
                    geometry.data_offset < kPartition &&
                    geometry.data_bytes <= kPartition - geometry.data_offset &&
                    geometry.data_bytes % geometry.sector_bytes == 0 &&
                    header->digest.iterations <= postern::crypt::kMaxDigestIterations;
  if (!sane) {
    __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  check(postern::crypt::parse_luks2({reinterpret_cast<const char*>(data), size}, kPartition));
  const postern::UniqueFd file(::memfd_create("header", MFD_CLOEXEC));
  if (::write(file.get(), data, size) == static_cast<ssize_t>(size)) {
    postern::Snapshot bytes(file.get());
    check(postern::crypt::read_luks2(bytes, {0, kPartition}));
  }
  return 0;
}
