// A SIF file put together byte by byte from the description of the format, without our writer:
// what the reader is tested with must not come from the same hand.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include <sys/mman.h>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace sif_bytes {

inline void put(std::string& file, std::size_t at, std::string_view bytes) {
  if (file.size() < at + bytes.size()) {
    file.resize(at + bytes.size(), '\0');
  }
  file.replace(at, bytes.size(), bytes);
}

inline std::string le(std::uint64_t value, std::size_t size) {
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) {
    bytes += static_cast<char>(value >> (8 * i) & 0xff);
  }
  return bytes;
}

inline constexpr std::size_t kTable = 4096;
inline constexpr std::size_t kSlots = 4;

// Header with `kSlots` slots, created 2020-06-30 00:01:56, no objects.
inline std::string header() {
  std::string file(32176, '\0');
  put(file, 0, "#!/usr/bin/env run-singularity\n");
  put(file, 32, "SIF_MAGIC");
  put(file, 42, "01");
  put(file, 45, "02");
  put(file, 48, "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef");
  put(file, 64, le(1593475316, 8));
  put(file, 72, le(1593475316, 8));
  put(file, 80, le(kSlots, 8));
  put(file, 88, le(kSlots, 8));
  put(file, 96, le(kTable, 8));
  put(file, 104, le(kSlots * 585, 8));
  put(file, 112, le(32176, 8));
  return file;
}

// Fills `slot` and appends nothing: the caller places the data.
inline void object(std::string& file,
                   std::size_t slot,
                   std::uint32_t type,
                   std::uint64_t offset,
                   std::uint64_t size,
                   std::string_view name,
                   std::string_view extra,
                   std::uint32_t group = 0xF0000001,
                   std::uint32_t link = 0) {
  const std::size_t at = kTable + slot * 585;
  put(file, at, le(type, 4));
  put(file, at + 4, le(1, 1));
  put(file, at + 5, le(slot + 1, 4));
  put(file, at + 9, le(group, 4));
  put(file, at + 13, le(link, 4));
  put(file, at + 17, le(offset, 8));
  put(file, at + 25, le(size, 8));
  put(file, at + 33, le(size, 8));
  put(file, at + 41, le(1593475316, 8));
  put(file, at + 49, le(1593475317, 8));
  put(file, at + 57, le(501, 8));
  put(file, at + 65, le(20, 8));
  put(file, at + 73, name);
  put(file, at + 201, extra);
}

inline std::string partition(std::uint32_t fs, std::uint32_t type, std::string_view arch) {
  return le(fs, 4) + le(type, 4) + std::string(arch) + std::string(1, '\0');
}

// A definition file (slot 0) and a primary squashfs partition at 36864 (slot 1): "hsqs" and zeros.
inline std::string two_objects() {
  std::string file = header();
  put(file, 80, le(kSlots - 2, 8));
  object(file, 0, 0x4001, 32176, 5, "recipe.def", "");
  put(file, 32176, "hello");
  object(file, 1, 0x4004, 36864, 4096, "rootfs", partition(1, 2, "02"));
  put(file, 36864, "hsqs" + std::string(4092, '\0'));
  return file;
}

// An anonymous file with these bytes.
inline postern::UniqueFd file_of(std::string_view bytes) {
  postern::UniqueFd fd(::memfd_create("sif_test", MFD_CLOEXEC));
  if (!fd.valid() || ::pwrite(fd.get(), bytes.data(), bytes.size(), 0) != ssize_t(bytes.size())) {
    std::abort();
  }
  return fd;
}

}  // namespace sif_bytes
