// Key servers: the HTTP keyserver protocol (HKP, draft-shaw-openpgp-hkp-00).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::keys {

inline constexpr std::string_view kDefaultKeyServer = "https://keys.openpgp.org";

struct ServerOptions {
  std::string url;  // hkp:// (port 11371), hkps://, http:// or https://; a path is dropped
  std::string authorization;  // that header's value; sent over TLS or to this machine only
  unsigned timeout_seconds = 30;
};

struct FoundKey {
  std::string fingerprint;  // or key id, upper-case hex
  int algorithm = 0;        // RFC 4880 §9.1
  unsigned bits = 0;
  std::int64_t created = 0;  // Unix seconds; 0 = not said
  std::int64_t expires = 0;  // 0 = never
  std::string flags;         // "r" revoked, "d" disabled, "e" expired
  std::vector<std::string> users;
};

// The key servers of the user's remotes, in the order in which they are asked; at least one.
Outcome<std::vector<ServerOptions>> configured_servers();

// Errors name the server and say whether it could not be reached, does not have it, or refused.

// The armored keys for "0x" and hexadecimal digits.
Outcome<std::string> fetch_key(const ServerOptions& server, const std::string& search);
// Keys that match a name, an address or "0x…"; pages are put together.
Outcome<std::vector<FoundKey>> search_keys(const ServerOptions& server, const std::string& text);
Outcome<> push_key(const ServerOptions& server, const std::string& armored);

// The machine-readable index of the protocol. Pure. Lines that are of no known form are skipped.
std::vector<FoundKey> parse_index(std::string_view text);
// "http://host:11371" of "hkp://host"; error: not one of the four schemes, or no host.
Outcome<std::string> server_address(const std::string& url);

// A GET of another kind of answer, for certificate status (RFC 6960, Appendix A): POST of `body`.
Outcome<std::string> post(const std::string& url,
                          const std::string& content_type,
                          const std::string& body,
                          unsigned timeout_seconds);

}  // namespace postern::keys
