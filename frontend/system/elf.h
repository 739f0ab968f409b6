// What the header and the dynamic section of a shared library say: elf(5).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace postern::system {

struct Library {
  unsigned bits = 0;     // 32 or 64
  unsigned machine = 0;  // EM_…
  std::string soname;    // "" if it has none
  unsigned glibc = 0;    // N of the newest GLIBC_2.N that it needs; 0 if it needs none
};

// Nothing if the file is no readable ELF file of this host's byte order.
std::optional<Library> read_library(const std::string& path);

// N of the newest GLIBC_2.N that the C library `path` defines; 0 if it cannot be told. Reads the
// file's beginning alone: the names of versions stand in front of the code.
unsigned glibc_of(const std::string& path);

}  // namespace postern::system
