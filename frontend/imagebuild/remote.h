// What sources elsewhere need: connections, credentials, the cache.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "frontend/cache/cache.h"
#include "frontend/net/library.h"
#include "frontend/net/registry.h"

namespace postern::imagebuild {

struct RemoteOptions {
  net::CredentialOptions credentials;
  bool no_https = false;
  bool disable_cache = false;
  std::string library;     // --library: the address of a library
  std::string verify_key;  // --verify-key: file of a public key that must have signed
};

// Fills up what the command line left open: DOCKER_USERNAME and DOCKER_PASSWORD; with `ask`, asks
// for what is missing.
Outcome<> complete_credentials(net::CredentialOptions& credentials, bool ask);

// One for a run of the program. Nothing is opened before it is needed.
class Remote {
 public:
  explicit Remote(RemoteOptions options) : options_(std::move(options)) {}

  [[nodiscard]] const RemoteOptions& options() const noexcept { return options_; }

  net::Session& session();
  Outcome<cache::Cache*> cache();

  // Whether the image `digest` of a registry is signed by --verify-key; nothing is asked without
  // it.
  Outcome<> check_signature(net::Registry& registry, const std::string& digest) const;

  // The library that `reference` means: --library, its own host, or the active remote's.
  Outcome<net::Library> library(const net::LibraryReference& reference);

  // Ends what another thread transfers, or allows transfers again.
  void abandon(bool on) { abandoned_ = on; }

 private:
  RemoteOptions options_;
  std::atomic<bool> abandoned_{false};
  std::optional<net::Session> session_;
  std::optional<cache::Cache> cache_;
};

}  // namespace postern::imagebuild
