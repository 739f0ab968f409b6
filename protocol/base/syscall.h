// System calls as results, and the short texts that go into them. Allocates nothing.
#pragma once

#include <array>
#include <charconv>
#include <span>
#include <string_view>

#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"

namespace postern {

// Ok, or an error with `err`, by default errno.
inline Result<> require(bool good, Op op, int err = 0) noexcept {
  return good ? Result<>(Ok{}) : Error{.err = err != 0 ? err : errno, .op = op};
}

// The new descriptor that a call returned.
inline Result<UniqueFd> own(long fd, Op op) noexcept {
  return fd >= 0 ? Result<UniqueFd>(UniqueFd(static_cast<int>(fd))) : Error{.err = errno, .op = op};
}

// A short text of our own making: constants and numbers. Too long is a bug, not a cut text.
class Text {
 public:
  // Texts, and numbers in decimal.
  Text& add(const auto&... parts) noexcept {
    (put(parts), ...);
    return *this;
  }

  Text& number(std::uint64_t value, int base) noexcept {
    std::array<char, 22> digits{};
    put({digits.begin(), std::to_chars(digits.begin(), digits.end(), value, base).ptr});
    return *this;
  }

  Text& hex(std::span<const std::uint8_t> bytes) noexcept {
    for (const std::uint8_t byte : bytes) number(byte / 16U, 16).number(byte % 16U, 16);
    return *this;
  }

  const char* text() const noexcept { return text_.data(); }

 private:
  void put(std::uint64_t value) noexcept { number(value, 10); }

  void put(const Text& more) noexcept { put(std::string_view(more.text())); }

  void put(std::string_view more) noexcept {
    POSTERN_CHECK(more.size() < text_.size() - used_);
    used_ += more.copy(&text_[used_], more.size());
  }

  std::array<char, 512> text_{};
  std::size_t used_ = 0;
};

}  // namespace postern
