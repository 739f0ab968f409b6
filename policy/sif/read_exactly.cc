#include "policy/sif/read_exactly.h"

#include "policy/snapshot/snapshot.h"

namespace postern::sif {

Outcome<> read_exactly(int fd,
                       std::uint64_t offset,
                       std::span<std::uint8_t> out,
                       const char* what) {
  const Snapshot file(fd);
  while (!out.empty()) {
    POSTERN_TRY_ASSIGN(const std::size_t got, file.read(offset, out, what));
    out = out.subspan(got);
    offset += got;
  }
  return Ok{};
}

}  // namespace postern::sif
