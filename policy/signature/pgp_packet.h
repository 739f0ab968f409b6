// OpenPGP packets, taken apart (RFC 4880 §4 and §5; RFC 9580 for what is newer): public keys and
// signatures of version 4. Pure: spans in, values out; the values point into what was given.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::signature {

using PacketBytes = std::span<const std::uint8_t>;

enum class PacketTag : std::uint8_t {
  kSignature = 2,
  kPublicKey = 6,
  kUserId = 13,
  kPublicSubkey = 14,
};

struct Packet {
  std::uint8_t tag = 0;
  PacketBytes body;
};

// Cuts the first packet off. Errors: not a packet, a partial or indeterminate length, truncated.
Outcome<Packet> take_packet(PacketBytes& bytes);

// Numbers of RFC 4880 §9.4; SHA-1 and weaker are not in the list because they are refused.
enum class PgpHash : std::uint8_t { kSha256 = 8, kSha384 = 9, kSha512 = 10, kSha224 = 11 };

std::optional<PgpHash> strong_hash(std::uint8_t number);

// What a signature packet says. Of two sub-packets of one type in the hashed area the last counts,
// as in GnuPG.
struct SignatureBody {
  std::uint8_t type = 0;              // §5.2.1: 0 binary, 1 text, 0x18 binds a subkey, 0x19 back
  std::uint8_t key_algorithm = 0;     // §9.1
  std::uint8_t hash = 0;              // §9.4
  std::uint32_t created = 0;          // Unix seconds; 0: not said
  std::uint32_t lifetime = 0;         // seconds; 0: for ever
  std::string issuer;                 // key id (16 lower-case hex digits) or fingerprint (40)
  bool unknown_critical = false;      // a hashed sub-packet that is critical and not known here
  std::vector<PacketBytes> embedded;  // bodies of embedded signatures (type 32), both areas
  PacketBytes hashed;                 // of the body: what is hashed behind the text
  PacketBytes numbers;                // the MPIs
};

// Error: not of version 4 (a version 6 signature is named as such), or truncated.
Outcome<SignatureBody> parse_signature_body(PacketBytes body);

// A public key packet of version 4.
struct KeyBody {
  std::uint32_t created = 0;
  std::uint8_t algorithm = 0;  // §9.1
  PacketBytes numbers;         // what follows the algorithm
  std::string fingerprint;     // 40 lower-case hex digits
};

// Error: not of version 4, or truncated.
Outcome<KeyBody> parse_key_body(PacketBytes body);

// Cuts a multi-precision integer off: its bytes, without leading zeros. Error: truncated.
Outcome<PacketBytes> take_mpi(PacketBytes& bytes);

// The key packet as fingerprints and bindings hash it: 0x99, the length in two bytes, the body.
std::vector<std::uint8_t> framed_key(PacketBytes body);

}  // namespace postern::signature
