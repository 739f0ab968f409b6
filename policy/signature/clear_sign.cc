#include "policy/signature/clear_sign.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "policy/signature/base64.h"
#include "policy/signature/digest.h"

namespace postern::signature {
namespace {

constexpr std::string_view kStart = "-----BEGIN PGP SIGNED MESSAGE-----";
constexpr std::string_view kSignatureStart = "-----BEGIN PGP SIGNATURE-----";
constexpr std::string_view kSignatureEnd = "-----END PGP SIGNATURE-----";
constexpr std::size_t kMaxArmorLine = 96;
constexpr std::size_t kMaxPacketBytes = std::size_t{64} << 10;

Problem malformed(std::string_view what) {
  return Problem{"clear-signed message: " + std::string(what)};
}

std::string_view trim_end(std::string_view line) {
  const std::size_t end = line.find_last_not_of(" \t\r");
  return line.substr(0, end == std::string_view::npos ? 0 : end + 1);
}

// Lines without their LF; `next` is false at the end of the data.
class Lines {
 public:
  explicit Lines(std::string_view data) : rest_(data) {}

  bool next(std::string_view& line) {
    if (rest_.empty()) {
      return false;
    }
    const std::size_t end = rest_.find('\n');
    line = rest_.substr(0, end);
    rest_ = end == std::string_view::npos ? std::string_view{} : rest_.substr(end + 1);
    return true;
  }

 private:
  std::string_view rest_;
};

// A framework line must end right after its dashes.
bool is_line(std::string_view line, std::string_view wanted) {
  return line == wanted ||
         (line.size() == wanted.size() + 1 && line.back() == '\r' && line.starts_with(wanted));
}

constexpr std::array<std::string_view, 9> kHashNames = {
    "MD5", "SHA1", "RIPEMD160", "SHA224", "SHA256", "SHA384", "SHA512", "SHA3-256", "SHA3-512"};

Outcome<> read_hash_header(std::string_view line, std::vector<std::string>& hashes) {
  constexpr std::string_view kName = "Hash:";
  line = trim_end(line);
  if (!line.starts_with(kName)) {
    return malformed("a header other than 'Hash'");
  }
  line.remove_prefix(kName.size());
  while (true) {
    const std::size_t comma = line.find(',');
    std::string_view name = trim_end(line.substr(0, comma));
    name.remove_prefix(std::min(name.find_first_not_of(" \t"), name.size()));
    std::string upper(name);
    std::transform(upper.begin(), upper.end(), upper.begin(), [](char c) {
      return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    });
    if (std::find(kHashNames.begin(), kHashNames.end(), upper) == kHashNames.end() ||
        hashes.size() >= kHashNames.size()) {
      return malformed("an unknown hash in a 'Hash' header");
    }
    hashes.push_back(std::move(upper));
    if (comma == std::string_view::npos) {
      return Ok{};
    }
    line.remove_prefix(comma + 1);
  }
}

Outcome<> read_headers(Lines& lines, std::vector<std::string>& hashes) {
  std::string_view line;
  while (lines.next(line)) {
    if (trim_end(line).empty()) {
      return Ok{};
    }
    POSTERN_TRY(read_hash_header(line, hashes));
  }
  return malformed("no blank line after the headers");
}

Outcome<> read_text(Lines& lines, ClearSigned& out) {
  std::string_view line;
  bool first = true;
  while (lines.next(line)) {
    if (is_line(line, kSignatureStart)) {
      return first ? Outcome<>(malformed("no text")) : Outcome<>(Ok{});
    }
    if (line.starts_with("- ")) {
      line.remove_prefix(2);
    } else if (line.starts_with('-')) {
      return malformed("a text line starts with an unescaped dash");
    }
    line = trim_end(line);
    // Line ends and string ends that an engine may see in the middle of a line.
    if (line.find_first_of(std::string_view("\r\0", 2)) != std::string_view::npos) {
      return malformed("a control character in the text");
    }
    if (!first) {
      out.text += '\n';
      out.signed_bytes += "\r\n";
    }
    out.text += line;
    out.signed_bytes += line;
    first = false;
  }
  return malformed("no signature");
}

Outcome<> read_armor(Lines& lines, std::vector<std::uint8_t>& packets) {
  std::string_view line;
  while (true) {
    if (!lines.next(line)) {
      return malformed("the armor ends early");
    }
    line = trim_end(line);
    if (line.empty()) {
      break;
    }
    if (line.find(':') == std::string_view::npos) {
      return malformed("no blank line before the base64 lines");
    }
  }
  std::string base64;
  bool checksum = false;
  while (lines.next(line)) {
    if (is_line(line, kSignatureEnd)) {
      auto decoded = decode_base64(base64);
      if (!decoded || decoded->empty()) {
        return malformed("the armor is not base64");
      }
      packets = std::move(*decoded);
      return Ok{};
    }
    line = trim_end(line);
    if (line.size() > kMaxArmorLine || base64.size() > 2 * kMaxPacketBytes || checksum) {
      return malformed("an armor line is too long, or there are too many");
    }
    if (line.size() == 5 && line.front() == '=') {
      checksum = true;  // RFC 9580 §6.1: to be ignored; the signature protects itself
      continue;
    }
    base64 += line;
  }
  return malformed("no end line");
}

// ---- packets (RFC 4880 §4.2, §5.2)

using Bytes = std::span<const std::uint8_t>;

std::uint32_t big_endian(Bytes bytes) {
  std::uint32_t value = 0;
  for (const std::uint8_t byte : bytes) {
    value = value << 8 | byte;
  }
  return value;
}

Problem bad_packet(std::string_view what) {
  return Problem{"OpenPGP signature: " + std::string(what)};
}

// The body of the one packet in `bytes`, which must be a signature packet and fill them.
Outcome<Bytes> only_signature_body(Bytes bytes) {
  if (bytes.size() < 2 || (bytes[0] & 0x80) == 0) {
    return bad_packet("not a packet");
  }
  const bool new_format = (bytes[0] & 0x40) != 0;
  const unsigned tag = new_format ? bytes[0] & 0x3fU : bytes[0] >> 2 & 0xfU;
  constexpr unsigned kSignatureTag = 2;
  if (tag != kSignatureTag) {
    return bad_packet("a packet of another kind");
  }
  std::size_t length_bytes = 0;
  std::size_t length = 0;
  if (!new_format) {
    const unsigned kind = bytes[0] & 3U;
    if (kind == 3) {
      return bad_packet("a packet of indeterminate length");
    }
    length_bytes = std::size_t{1} << kind;
    if (bytes.size() < 1 + length_bytes) {
      return bad_packet("truncated");
    }
    length = big_endian(bytes.subspan(1, length_bytes));
  } else if (bytes[1] < 192) {
    length_bytes = 1;
    length = bytes[1];
  } else if (bytes[1] < 224 && bytes.size() >= 3) {
    length_bytes = 2;
    length = (std::size_t{bytes[1]} - 192) * 256 + bytes[2] + 192;
  } else if (bytes[1] == 255 && bytes.size() >= 6) {
    length_bytes = 5;
    length = big_endian(bytes.subspan(2, 4));
  } else {
    return bad_packet("a partial or truncated length");
  }
  const Bytes body = bytes.subspan(1 + length_bytes);
  if (body.size() != length) {
    return bad_packet(body.size() < length ? "truncated" : "more than one packet");
  }
  return body;
}

// Walks one sub-packet area for an issuer (type 16: key id, type 33: version and fingerprint).
Outcome<> find_issuer(Bytes area, std::string& issuer) {
  while (!area.empty()) {
    std::size_t length_bytes = 1;
    std::size_t length = area[0];
    if (area[0] == 255) {
      length_bytes = 5;
      if (area.size() < 5) {
        return bad_packet("truncated sub-packet");
      }
      length = big_endian(area.subspan(1, 4));
    } else if (area[0] >= 192) {
      length_bytes = 2;
      if (area.size() < 2) {
        return bad_packet("truncated sub-packet");
      }
      length = (std::size_t{area[0]} - 192) * 256 + area[1] + 192;
    }
    if (length == 0 || length > area.size() - length_bytes) {
      return bad_packet("truncated sub-packet");
    }
    const Bytes body = area.subspan(length_bytes, length);
    const unsigned type = body[0] & 0x7fU;  // the top bit marks it critical
    if (type == 16 && body.size() == 9 && issuer.empty()) {
      issuer = hex_text(body.subspan(1));
    } else if (type == 33 && body.size() == 22 && body[1] == 4) {
      issuer = hex_text(body.subspan(2));
    }
    area = area.subspan(length_bytes + length);
  }
  return Ok{};
}

std::optional<PgpHash> strong_hash(std::uint8_t number) {
  for (const PgpHash hash :
       {PgpHash::kSha256, PgpHash::kSha384, PgpHash::kSha512, PgpHash::kSha224}) {
    if (static_cast<std::uint8_t>(hash) == number) {
      return hash;
    }
  }
  return std::nullopt;
}

std::string_view header_name(PgpHash hash) {
  switch (hash) {
    case PgpHash::kSha224:
      return "SHA224";
    case PgpHash::kSha256:
      return "SHA256";
    case PgpHash::kSha384:
      return "SHA384";
    case PgpHash::kSha512:
      return "SHA512";
  }
  return "";
}

}  // namespace

bool looks_clear_signed(std::string_view data) {
  std::string_view line;
  return Lines(data).next(line) && is_line(line, kStart);
}

Outcome<ClearSigned> parse_clear_signed(std::string_view data) {
  if (data.size() > kMaxClearSignedBytes) {
    return malformed("larger than " + std::to_string(kMaxClearSignedBytes) + " bytes");
  }
  Lines lines(data);
  std::string_view line;
  if (!lines.next(line) || !is_line(line, kStart)) {
    return malformed("does not begin with its start line");
  }
  ClearSigned out;
  POSTERN_TRY(read_headers(lines, out.hashes));
  POSTERN_TRY(read_text(lines, out));
  POSTERN_TRY(read_armor(lines, out.packets));
  while (lines.next(line)) {
    if (!trim_end(line).empty()) {
      return malformed("something follows its end line");
    }
  }
  return out;
}

Outcome<SignaturePacket> parse_signature_packet(const ClearSigned& message) {
  POSTERN_TRY_ASSIGN(const Bytes body, only_signature_body(message.packets));
  if (body.size() < 6 || body[0] != 4) {
    return bad_packet("not of version 4");
  }
  if (body[1] > 1) {  // 0 binary document, 1 text document
    return bad_packet("not a signature over a document");
  }
  SignaturePacket out;
  out.key_algorithm = body[2];
  const std::optional<PgpHash> hash = strong_hash(body[3]);
  if (!hash) {
    return bad_packet("made with a weak or unknown hash (number " + std::to_string(body[3]) + ")");
  }
  out.hash = *hash;
  if (!message.hashes.empty() && std::find(message.hashes.begin(), message.hashes.end(),
                                           header_name(*hash)) == message.hashes.end()) {
    return bad_packet("its 'Hash' header names another hash");
  }
  Bytes rest = body.subspan(4);
  for (int area = 0; area < 2; ++area) {  // hashed, unhashed
    if (rest.size() < 2) {
      return bad_packet("truncated");
    }
    const std::size_t length = big_endian(rest.first(2));
    if (length > rest.size() - 2) {
      return bad_packet("truncated");
    }
    POSTERN_TRY(find_issuer(rest.subspan(2, length), out.issuer));
    rest = rest.subspan(2 + length);
  }
  if (out.issuer.empty()) {
    return bad_packet("does not name its key");
  }
  return out;
}

}  // namespace postern::signature
