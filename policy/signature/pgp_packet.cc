#include "policy/signature/pgp_packet.h"

#include <algorithm>
#include <array>

#include <openssl/evp.h>

#include "policy/text/hex.h"

namespace postern::signature {
namespace {

std::uint32_t big_endian(PacketBytes bytes) {
  std::uint32_t value = 0;
  for (const std::uint8_t byte : bytes) {
    value = value << 8 | byte;
  }
  return value;
}

Problem bad_packet(std::string_view what) {
  return Problem{"OpenPGP: " + std::string(what)};
}

struct Length {
  std::size_t header;  // bytes of the length itself
  std::size_t body;
};

// §4.2.1 and §4.2.2; `bytes` begins with the tag.
Outcome<Length> length_of(PacketBytes bytes) {
  if ((bytes[0] & 0x40) == 0) {
    const unsigned kind = bytes[0] & 3U;
    if (kind == 3) {
      return bad_packet("a packet of indeterminate length");
    }
    const std::size_t count = std::size_t{1} << kind;
    if (bytes.size() < 1 + count) {
      return bad_packet("a truncated packet");
    }
    return Length{count, big_endian(bytes.subspan(1, count))};
  }
  if (bytes[1] < 192) {
    return Length{1, bytes[1]};
  }
  if (bytes[1] < 224 && bytes.size() >= 3) {
    return Length{2, (std::size_t{bytes[1]} - 192) * 256 + bytes[2] + 192};
  }
  if (bytes[1] == 255 && bytes.size() >= 6) {
    return Length{5, big_endian(bytes.subspan(2, 4))};
  }
  return bad_packet("a packet of partial or truncated length");
}

struct SubPacket {
  std::uint8_t type;
  bool critical;
  PacketBytes body;
};

// §5.2.3.1
Outcome<SubPacket> take_sub_packet(PacketBytes& area) {
  std::size_t length_bytes = 1;
  std::size_t length = area[0];
  if (area[0] == 255) {
    length_bytes = 5;
    if (area.size() < 5) {
      return bad_packet("a truncated sub-packet");
    }
    length = big_endian(area.subspan(1, 4));
  } else if (area[0] >= 192) {
    length_bytes = 2;
    if (area.size() < 2) {
      return bad_packet("a truncated sub-packet");
    }
    length = (std::size_t{area[0]} - 192) * 256 + area[1] + 192;
  }
  if (length == 0 || length > area.size() - length_bytes) {
    return bad_packet("a truncated sub-packet");
  }
  const PacketBytes whole = area.subspan(length_bytes, length);
  area = area.subspan(length_bytes + length);
  // The top bit marks it critical.
  return SubPacket{static_cast<std::uint8_t>(whole[0] & 0x7fU), (whole[0] & 0x80U) != 0,
                   whole.subspan(1)};
}

// Types of §5.2.3.1 that GnuPG takes although they are critical. Notations (20) are not among them:
// a critical one that no reader here knows makes a signature invalid.
constexpr std::array<std::uint8_t, 21> kKnownTypes = {2,  3,  4,  5,  6,  7,  9,  11, 12, 16, 21,
                                                      22, 23, 24, 25, 26, 27, 28, 29, 30, 33};

void take_in(const SubPacket& part, bool is_hashed, SignatureBody& out) {
  constexpr std::uint8_t kCreated = 2;
  constexpr std::uint8_t kLifetime = 3;
  constexpr std::uint8_t kIssuer = 16;
  constexpr std::uint8_t kEmbedded = 32;
  constexpr std::uint8_t kIssuerFingerprint = 33;
  if (is_hashed && part.type == kCreated && part.body.size() == 4) {
    out.created = big_endian(part.body);
  } else if (is_hashed && part.type == kLifetime && part.body.size() == 4) {
    out.lifetime = big_endian(part.body);
  } else if (part.type == kIssuer && part.body.size() == 8 && out.issuer.empty()) {
    out.issuer = text::to_hex(part.body);
  } else if (part.type == kIssuerFingerprint && part.body.size() == 21 && part.body[0] == 4) {
    out.issuer = text::to_hex(part.body.subspan(1));
  } else if (part.type == kEmbedded) {
    out.embedded.push_back(part.body);
  }
  if (is_hashed && part.critical && part.type != kEmbedded &&
      std::find(kKnownTypes.begin(), kKnownTypes.end(), part.type) == kKnownTypes.end()) {
    out.unknown_critical = true;
  }
}

}  // namespace

std::optional<PgpHash> strong_hash(std::uint8_t number) {
  for (const PgpHash hash :
       {PgpHash::kSha256, PgpHash::kSha384, PgpHash::kSha512, PgpHash::kSha224}) {
    if (static_cast<std::uint8_t>(hash) == number) {
      return hash;
    }
  }
  return std::nullopt;
}

Outcome<Packet> take_packet(PacketBytes& bytes) {
  if (bytes.size() < 2 || (bytes[0] & 0x80) == 0) {
    return bad_packet("not a packet");
  }
  POSTERN_TRY_ASSIGN(const Length length, length_of(bytes));
  const PacketBytes rest = bytes.subspan(1 + length.header);
  if (rest.size() < length.body) {
    return bad_packet("a truncated packet");
  }
  const bool new_format = (bytes[0] & 0x40) != 0;
  const auto tag = static_cast<std::uint8_t>(new_format ? bytes[0] & 0x3fU : bytes[0] >> 2 & 0xfU);
  bytes = rest.subspan(length.body);
  return Packet{tag, rest.first(length.body)};
}

Outcome<SignatureBody> parse_signature_body(PacketBytes body) {
  if (!body.empty() && (body[0] == 5 || body[0] == 6)) {
    return Problem{"OpenPGP: a signature of version " + std::to_string(body[0]) +
                       ", and only version 4 is supported",
                   "sign with a key of version 4, which every GnuPG makes"};
  }
  if (body.size() < 6 || body[0] != 4) {
    return bad_packet("a signature that is not of version 4");
  }
  SignatureBody out;
  out.type = body[1];
  out.key_algorithm = body[2];
  out.hash = body[3];
  PacketBytes rest = body.subspan(4);
  for (const bool is_hashed : {true, false}) {
    if (rest.size() < 2) {
      return bad_packet("a truncated signature");
    }
    const std::size_t length = big_endian(rest.first(2));
    if (length > rest.size() - 2) {
      return bad_packet("a truncated signature");
    }
    PacketBytes area = rest.subspan(2, length);
    while (!area.empty()) {
      POSTERN_TRY_ASSIGN(const SubPacket part, take_sub_packet(area));
      take_in(part, is_hashed, out);
    }
    rest = rest.subspan(2 + length);
    if (is_hashed) {
      out.hashed = body.first(body.size() - rest.size());
    }
  }
  if (rest.size() < 2) {
    return bad_packet("a truncated signature");
  }
  out.numbers = rest.subspan(2);  // behind the left 16 bits of the digest, a hint only
  return out;
}

Outcome<KeyBody> parse_key_body(PacketBytes body) {
  if (!body.empty() && (body[0] == 5 || body[0] == 6)) {
    return Problem{"OpenPGP: a key of version " + std::to_string(body[0]) +
                       ", and only version 4 is supported",
                   "sign with a key of version 4, which every GnuPG makes"};
  }
  if (body.size() < 7 || body[0] != 4) {
    return bad_packet("a key that is not of version 4");
  }
  KeyBody out;
  out.created = big_endian(body.subspan(1, 4));
  out.algorithm = body[5];
  out.numbers = body.subspan(6);
  // §12.2. The fingerprint of version 4 is SHA-1, for whatever that is worth: it names the key that
  // root imported, and its bytes are in the table.
  std::array<std::uint8_t, 20> digest{};
  const std::vector<std::uint8_t> framed = framed_key(body);
  POSTERN_CHECK(
      EVP_Digest(framed.data(), framed.size(), digest.data(), nullptr, EVP_sha1(), nullptr) == 1);
  out.fingerprint = text::to_hex(digest);
  return out;
}

Outcome<PacketBytes> take_mpi(PacketBytes& bytes) {
  if (bytes.size() < 2) {
    return bad_packet("a truncated number");
  }
  const std::size_t length = (std::size_t{big_endian(bytes.first(2))} + 7) / 8;
  if (length > bytes.size() - 2) {
    return bad_packet("a truncated number");
  }
  PacketBytes number = bytes.subspan(2, length);
  bytes = bytes.subspan(2 + length);
  while (!number.empty() && number[0] == 0) {
    number = number.subspan(1);
  }
  return number;
}

std::vector<std::uint8_t> framed_key(PacketBytes body) {
  std::vector<std::uint8_t> out = {0x99, static_cast<std::uint8_t>(body.size() >> 8),
                                   static_cast<std::uint8_t>(body.size())};
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

}  // namespace postern::signature
