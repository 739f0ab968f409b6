#include "policy/signature/clear_sign.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "policy/text/base64.h"

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
      auto decoded = text::decode_base64(base64);
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

Problem bad_packet(std::string_view what) {
  return Problem{"OpenPGP signature: " + std::string(what)};
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
  PacketBytes bytes = message.packets;
  POSTERN_TRY_ASSIGN(const Packet packet, take_packet(bytes));
  if (PacketTag{packet.tag} != PacketTag::kSignature) {
    return bad_packet("a packet of another kind");
  }
  if (!bytes.empty()) {
    return bad_packet("more than one packet");
  }
  POSTERN_TRY_ASSIGN(const SignatureBody body, parse_signature_body(packet.body));
  if (body.type > 1) {  // 0 binary document, 1 text document
    return bad_packet("not a signature over a document");
  }
  SignaturePacket out;
  out.key_algorithm = body.key_algorithm;
  const std::optional<PgpHash> hash = strong_hash(body.hash);
  if (!hash) {
    return bad_packet("made with a weak or unknown hash (number " + std::to_string(body.hash) +
                      ")");
  }
  out.hash = *hash;
  if (!message.hashes.empty() && std::find(message.hashes.begin(), message.hashes.end(),
                                           header_name(*hash)) == message.hashes.end()) {
    return bad_packet("its 'Hash' header names another hash");
  }
  out.issuer = body.issuer;
  if (out.issuer.empty()) {
    return bad_packet("does not name its key");
  }
  return out;
}

}  // namespace postern::signature
