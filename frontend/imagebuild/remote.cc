#include "frontend/imagebuild/remote.h"

#include <cstdlib>

#include "frontend/imagebuild/cosign.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/keys/prompt.h"
#include "frontend/message/message.h"
#include "frontend/net/remotes.h"

namespace postern::imagebuild {
namespace {

bool interrupted() {
  return interrupt_signal() != 0;
}

}  // namespace

Outcome<> complete_credentials(net::CredentialOptions& credentials, bool ask) {
  const auto fill = [](std::string& value, const char* name) {
    const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody changes it
    if (value.empty() && text != nullptr) {
      value = text;
    }
  };
  fill(credentials.user, "DOCKER_USERNAME");
  fill(credentials.password, "DOCKER_PASSWORD");
  if (ask && credentials.user.empty()) {
    POSTERN_TRY_ASSIGN(credentials.user, keys::ask("Enter Docker Username: "));
  }
  if (ask && credentials.password.empty()) {
    POSTERN_TRY_ASSIGN(credentials.password, keys::ask_secret("Enter Docker Password: "));
  }
  return Ok{};
}

net::Session& Remote::session() {
  if (!session_) {
    session_.emplace(net::SessionOptions{
        .credentials = options_.credentials, .no_https = options_.no_https, .cancelled = [this] {
          return abandoned_ || interrupted();
        }});
  }
  return *session_;
}

Outcome<> Remote::check_signature(net::Registry& registry, const std::string& digest) const {
  if (options_.verify_key.empty()) {
    return Ok{};
  }
  POSTERN_TRY_ASSIGN(const signature::PublicKey key, read_cosign_key(options_.verify_key));
  POSTERN_TRY(verify_cosign(registry, digest, key));
  message::verbose(registry.reference().name() + " is signed by " + options_.verify_key);
  return Ok{};
}

Outcome<net::Library> Remote::library(const net::LibraryReference& reference) {
  const auto without_slash = [](std::string url) {
    while (url.ends_with('/')) {
      url.pop_back();
    }
    return url;
  };
  if (!options_.library.empty() && !reference.host.empty()) {
    return Problem{.what =
                       "Conflicting arguments; do not use --library with a library URI "
                       "containing host name"};
  }
  POSTERN_TRY_ASSIGN(const net::Remotes remotes, net::load_remotes());
  const net::Remote* const active = remotes.find("");
  std::string own;
  if (active != nullptr &&
      (active->exclusive || (options_.library.empty() && reference.host.empty()))) {
    POSTERN_TRY_ASSIGN(const auto services, net::discover(session().client(), *active));
    const auto found = services.find("library");
    own = found == services.end() ? "" : found->second;
  }
  std::string base = own;
  if (!options_.library.empty()) {
    base = without_slash(options_.library);
    POSTERN_TRY(net::origin_of(base));
  } else if (!reference.host.empty()) {
    base = (options_.no_https ? "http://" : "https://") + reference.host;
  }
  if (active != nullptr && active->exclusive && base != own) {
    return Problem{.what = "endpoint is set as exclusive by the system administrator: only \"" +
                           own + "\" can be used"};
  }
  if (base.empty()) {
    return Problem{
        .what = "Unable to get library client configuration: remote has no library client",
        .cure =
            "name a library with --library URL, or add a remote that has one: "
            "postern remote add NAME URI"};
  }
  // A token is for the remote's own library and for nothing that a command line names.
  const bool is_own = base == own && options_.library.empty() && reference.host.empty();
  return net::Library(session().client(), base, is_own ? active->token : "");
}

Outcome<cache::Cache*> Remote::cache() {
  if (!cache_) {
    POSTERN_TRY_ASSIGN(cache::Cache opened,
                       cache::Cache::open(options_.disable_cache, interrupted));
    cache_ = std::move(opened);
  }
  return &*cache_;
}

}  // namespace postern::imagebuild
