// LUKS2 headers as postern-crypt reads them, through libcryptsetup: damaged, costly, of other
// shapes.
#include <array>

#include <sys/mman.h>

#include <unistd.h>

#include "fuzz/target.h"
#include "policy/crypt/luks_header.h"

// The header lies at the start of a partition of 64 MiB that is otherwise empty.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace crypt = postern::crypt;
  constexpr std::uint64_t kPartition = 64ULL * 1024 * 1024;
  constexpr std::uint64_t kOffset = 4096;
  const postern::UniqueFd image(::memfd_create("image", MFD_CLOEXEC));
  if (::ftruncate(image.get(), kOffset + kPartition) != 0 ||
      ::pwrite(image.get(), data, size, kOffset) != static_cast<ssize_t>(size)) {
    return 0;
  }
  postern::Snapshot bytes(image.get());
  auto header = crypt::LuksHeader::load(bytes, {kOffset, kPartition});
  if (!header) {
    return 0;
  }
  const auto& geometry = header->geometry();
  const bool sane = (geometry.sector_bytes == 512 || geometry.sector_bytes == 4096) &&
                    geometry.data_offset < kPartition &&
                    geometry.data_bytes <= kPartition - geometry.data_offset;
  if (!sane) {
    __builtin_trap();
  }
  const std::array<std::byte, 4> secret{};
  const crypt::KdfLimits limits{
      .max_memory_kib = 64, .max_iterations = 1000, .max_time_cost = 1, .max_threads = 1};
  static_cast<void>(header->unlock(secret, limits).has_value());
  // What is stored reads as what was stored.
  if (header->store(image.get(), kOffset, kPartition)) {
    postern::Snapshot stored(image.get());
    const auto again = crypt::LuksHeader::load(stored, {kOffset, kPartition});
    if (!again || again->slots() != header->slots()) {
      __builtin_trap();
    }
  }
  return 0;
}
