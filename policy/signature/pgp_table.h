// The site's OpenPGP keys, compiled: what GnuPG found out about each key when root imported it, and
// the key itself, in one file that the judge reads in a moment and checks signatures against inside
// its sandbox, without GnuPG.
//
// `postern key import --global` writes it beside pubring.gpg, from which it is made. A line each:
//
//   postern-keyring 1
//   ring <64 hex: SHA-256 of pubring.gpg>
//   key <fingerprint> <flags> <primary user id, as %XX where not plain>
//   part <flags> <expires, 0 = never> <hex of the public key packet>
//   …
//
// Flags are "-" or a list with commas; of a key: revoked,invalid,uid-revoked; of a part:
// sign,revoked,invalid,uncertified.
//
// The first part of a key is its primary. Subkeys whose binding GnuPG does not accept are not in
// the table; "uncertified" is a signing subkey that did not sign its primary key back.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/signature/pgp.h"

namespace postern::signature {

struct PgpPart {
  bool may_sign = false;
  bool revoked = false;
  bool invalid = false;
  bool uncertified = false;
  std::int64_t expires = 0;          // Unix seconds; 0: never
  std::vector<std::uint8_t> packet;  // body of the public key packet
};

struct PgpKey {
  std::string fingerprint;  // of the primary key, 40 lower-case hex digits
  std::string name;         // primary user id, "unknown" where the key has none
  bool revoked = false;
  bool invalid = false;
  bool uid_revoked = false;
  std::vector<PgpPart> parts;  // the first is the primary key
};

struct PgpTable {
  std::string ring_sha256;  // 64 lower-case hex digits
  std::vector<PgpKey> keys;
};

inline constexpr std::string_view kTableName = "pubring.table";

std::string write_table(const PgpTable& table);
// Strict; errors name the line.
Outcome<PgpTable> parse_table(std::string_view text);

// Whether a subkey's packets hold a signature with which it vouches for its primary key (RFC 4880
// §5.2.1, type 0x19, embedded in a binding): without one a subkey could be claimed by anybody.
bool signs_back(const PgpPart& primary,
                const PgpPart& subkey,
                const std::vector<PacketBytes>& signatures);

class TableRing final : public PgpRing {
 public:
  // `now` gives the time, for tests.
  explicit TableRing(PgpTable table, std::function<std::int64_t()> now = {});

  [[nodiscard]] Outcome<PgpCheck> check(const ClearSigned& message) const override;

 private:
  struct Named;

  [[nodiscard]] PgpCheck check_with(const PgpKey& key,
                                    const PgpPart& part,
                                    const ClearSigned& message,
                                    const SignatureBody& signature) const;

  PgpTable table_;
  std::function<std::int64_t()> now_;
};

}  // namespace postern::signature
