// The client of container registries (OCI distribution specification 1.1, Docker Registry API v2).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/net/credentials.h"
#include "frontend/net/http.h"
#include "frontend/net/reference.h"

namespace postern::net {

struct SessionOptions {
  CredentialOptions credentials;
  bool no_https = false;                 // plain HTTP and certificates that nobody vouches for
  std::function<bool()> cancelled = {};  // a signal came
  std::function<void(std::uint64_t)> sent = {};
};

// What one run of a program knows of servers: connections, tokens, schemes. One thread at a time.
class Session {
 public:
  explicit Session(SessionOptions options);

  [[nodiscard]] const SessionOptions& options() const noexcept { return options_; }

  Client& client() noexcept { return client_; }

  // "https://HOST" or, where that is allowed and TLS is not spoken, "http://HOST".
  Outcome<std::string> base_of(const std::string& host);

  // The value of Authorization for `scope` at `base` that was good the last time, or "".
  [[nodiscard]] std::string known_authorization(const std::string& base,
                                                const std::string& scope) const;
  // After a 401: asks the token server, or takes name and password. "": nothing can be tried.
  Outcome<std::string> authorize(const std::string& base,
                                 const std::string& credential_key,
                                 const std::string& repository,
                                 const std::string& scope,
                                 const Answer& refusal);

 private:
  struct Tried {
    std::string value;
    unsigned times = 0;
  };

  SessionOptions options_;
  Client client_;
  std::map<std::string, std::string> bases_;
  std::map<std::string, Tried> authorizations_;  // by base and scope
};

struct Manifest {
  std::string media_type;
  std::string digest;  // of `bytes`
  std::string bytes;
};

// One repository of one registry.
class Registry {
 public:
  // `actions`: "pull", "pull,push", "delete".
  static Outcome<Registry> open(Session& session,
                                Reference reference,
                                std::string actions = "pull");

  [[nodiscard]] const Reference& reference() const noexcept { return reference_; }

  // The digest that a tag stands for, without a download where the server says it.
  Outcome<std::string> resolve(const std::string& tag_or_digest);
  // The document, checked against its digest and for one media type only.
  Outcome<Manifest> manifest(const std::string& tag_or_digest);
  // A small blob, checked; at most 4 MiB.
  Outcome<std::string> document(const std::string& digest, std::uint64_t size);
  // The request for a blob; the caller gives it a sink.
  Request blob_request(const std::string& digest);

  Outcome<bool> has_blob(const std::string& digest);
  // Sends [0, bytes) of `file`, or `text`.
  Outcome<> upload(const std::string& digest, int file, std::uint64_t bytes);
  Outcome<> upload(const std::string& digest, const std::string& text);
  // Returns the digest.
  Outcome<std::string> put_manifest(const std::string& tag_or_digest,
                                    const std::string& media_type,
                                    const std::string& bytes);
  Outcome<> remove(const std::string& digest);
  Outcome<std::vector<std::string>> tags();

 private:
  Registry(Session& session, Reference reference, std::string base, std::string scope)
      : session_(&session),
        reference_(std::move(reference)),
        base_(std::move(base)),
        scope_(std::move(scope)) {}

  Request request(std::string method, const std::string& path);
  Request authorized(Request request);
  Outcome<> upload_once(const std::string& digest, const Request& body);

  Session* session_;
  Reference reference_;
  std::string base_;
  std::string scope_;
};

// Every repository of a registry that lists them.
Outcome<std::vector<std::string>> catalog(Session& session, const std::string& host);

// Whether name and password are right: what `registry login` asks.
Outcome<> check_login(Session& session, const std::string& host);

// ---- pure parsers of what servers say

struct Challenge {
  bool bearer = false;  // else basic
  std::string realm;
  std::string service;
  std::string scope;
};

// One WWW-Authenticate header (RFC 9110 §11.6.1); nothing where it is neither Basic nor Bearer.
std::optional<Challenge> parse_challenge(std::string_view header);

// The token of a token server's answer. Error: there is none, or it is not made of visible ASCII.
Outcome<std::string> parse_token(std::string_view body);

// Which kind of document it is, by its Content-Type and by what it says itself: both must say the
// same, and it must be a manifest or an index, not both (CVE-2021-41190). Schema 1 and other kinds
// are Problems that name them.
Outcome<std::string> manifest_media_type(std::string_view content_type, std::string_view bytes);

// "</v2/_catalog?last=x&n=1000>; rel=\"next\"": the URL, or "".
std::string next_page(std::string_view link);

}  // namespace postern::net
