// Little-endian loads and stores at fixed places of a fixed buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace postern::sif {

// `at + sizeof(T)` must be inside `bytes`: offsets are constants of the format, checked by the
// span's assertions in every build.
template <class T>
T load(std::span<const std::uint8_t> bytes, std::size_t at) noexcept {
  using Unsigned = std::make_unsigned_t<T>;
  Unsigned value = 0;
  const auto field = bytes.subspan(at, sizeof(T));
  for (std::size_t i = sizeof(T); i-- > 0;) {
    value = static_cast<Unsigned>(static_cast<Unsigned>(sizeof(T) > 1 ? value << 8 : 0) | field[i]);
  }
  return static_cast<T>(value);
}

template <class T>
void store(std::span<std::uint8_t> bytes, std::size_t at, T number) noexcept {
  auto value = static_cast<std::make_unsigned_t<T>>(number);
  for (std::uint8_t& byte : bytes.subspan(at, sizeof(T))) {
    byte = static_cast<std::uint8_t>(value & 0xff);
    value = static_cast<std::make_unsigned_t<T>>(sizeof(T) > 1 ? value >> 8 : 0);
  }
}

}  // namespace postern::sif
