// The clear-signed form of an OpenPGP message (RFC 4880 §7), and the one signature packet in it.
//
// Both are taken apart here, strictly, and only the packet's bytes and the text are handed to the
// OpenPGP engine, as a detached signature. So the bytes that the engine verifies and the bytes that
// are parsed afterwards are the same buffer, and no other message form (compressed, encrypted,
// nested, several signatures) can reach the engine.
//
// Stricter than other SIF tools, and no writer is known that this hurts: nothing before the start
// line, nothing but blanks after the end line, exactly one signature packet, no stray CR, and a
// Hash header, where there is one, must name the hash of the signature.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"
#include "policy/signature/pgp_packet.h"

namespace postern::signature {

struct SignaturePacket {
  PgpHash hash = PgpHash::kSha256;
  std::uint8_t key_algorithm = 0;  // RFC 4880 §9.1
  std::string issuer;              // key id (16 lower-case hex digits) or fingerprint (40)
};

struct ClearSigned {
  std::string text;                   // lines joined by LF, no line end at the end
  std::string signed_bytes;           // the same lines joined by CR LF: what the signature covers
  std::vector<std::string> hashes;    // names of the Hash headers, upper case
  std::vector<std::uint8_t> packets;  // the decoded armor
};

inline constexpr std::size_t kMaxClearSignedBytes = std::size_t{4} << 20;

// Whether the data is meant to be a clear-signed message: it begins with the start line.
bool looks_clear_signed(std::string_view data);

Outcome<ClearSigned> parse_clear_signed(std::string_view data);

// Exactly one version 4 signature packet over text or binary data, with a strong hash, and with
// what the message's Hash headers say. Errors in words: weak hash, several packets, …
Outcome<SignaturePacket> parse_signature_packet(const ClearSigned& message);

}  // namespace postern::signature
