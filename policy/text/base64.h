// Base64 (RFC 4648), padded. Reading is strict: no blanks, no missing padding, no stray bits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace postern::text {

std::string encode_base64(std::span<const std::uint8_t> bytes);

// None where the text is not padded base64 in the standard alphabet, or, with `url`, in the
// standard or the URL one.
std::optional<std::vector<std::uint8_t>> decode_base64(std::string_view text, bool url = false);

}  // namespace postern::text
