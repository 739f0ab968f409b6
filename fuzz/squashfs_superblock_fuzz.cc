// The check of a squashfs superblock. The input's size is the extent's.
#include "fuzz/target.h"
#include "policy/image/squashfs.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto super = postern::image::parse_superblock({data, size}, size);
  if (super && (super->bytes_used > size || super->bytes_used < postern::image::kSuperblockBytes ||
                super->block_bytes < 4096 || super->block_bytes > (1U << 20) ||
                postern::image::name_of(super->compression) == "unknown")) {
    __builtin_trap();
  }
  return 0;
}
