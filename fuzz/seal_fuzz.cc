// A seal's JSON and a dm-verity superblock.
#include <algorithm>
#include <array>
#include <string_view>

#include "fuzz/target.h"
#include "policy/seal/seal.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace seal = postern::seal;
  const auto text = seal::parse_seal({reinterpret_cast<const char*>(data), size});
  seal::SealText wanted;
  if (text) {
    wanted = *text;
    const std::string written = seal::write_seal(*text);
    const auto again = seal::parse_seal(written);
    if (!again || seal::write_seal(*again) != written || text->data_blocks == 0 ||
        text->salt.size() > seal::kSaltBytes ||
        seal::tree_bytes(text->data_blocks) % seal::kBlockBytes != 0) {
      __builtin_trap();
    }
  }
  if (size >= seal::kSuperblockBytes) {
    std::array<std::uint8_t, seal::kSuperblockBytes> superblock{};
    std::copy_n(data, superblock.size(), superblock.begin());
    wanted.data_blocks = 1;
    if (seal::check_superblock(superblock, wanted)) {
      const std::array<std::uint8_t, 16> uuid = {};
      auto same = seal::write_superblock(wanted, uuid);
      std::copy_n(superblock.begin() + 16, uuid.size(), same.begin() + 16);
      if (same != superblock) {
        __builtin_trap();
      }
    }
  }
  return 0;
}
