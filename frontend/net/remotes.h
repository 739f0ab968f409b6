// remote.yaml: the servers that a user and a site have named, in Apptainer's format. A remote is a
// name for a host that says where its services are: a library, a key server.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/net/http.h"

namespace postern::net {

struct KeyServer {
  std::string uri;
  bool skip = false;      // the remote's own, taken out
  bool external = false;  // not the remote's own
  bool insecure = false;

  bool operator==(const KeyServer&) const = default;
};

struct Remote {
  std::string uri;  // host[/path], without a scheme
  std::string token;
  bool system = false;  // of the site's file
  bool exclusive = false;
  bool insecure = false;
  std::vector<KeyServer> key_servers;

  bool operator==(const Remote&) const = default;
};

// A login at something that is no remote: a registry (its secret is in a credential file), or a
// key server.
struct Login {
  std::string uri;
  std::string authorization;  // "Basic …"; key servers only
  bool insecure = false;
};

struct Remotes {
  std::string active;
  std::map<std::string, Remote> remotes;
  std::vector<Login> logins;

  // Null where there is none of this name; empty: the active one.
  [[nodiscard]] const Remote* find(const std::string& name) const;
};

// Pure. Error: not YAML, or not of this form (unknown keys too). `path` is for the Problem.
Outcome<Remotes> parse_remotes(std::string_view text, const std::string& path);
std::string remotes_text(const Remotes& remotes);

// The user's file, over the site's: a site's remote is there for all, an exclusive one is active.
Outcome<Remotes> load_remotes();
// The user's file alone, or the site's, to be changed.
Outcome<Remotes> load_remotes_file(const std::string& path);
Outcome<> save_remotes(const std::string& path, const Remotes& remotes, unsigned mode);

Outcome<std::string> user_remotes_path();  // REMOTE below the configuration directory
std::string site_remotes_path();

// Where a remote's services are: "library", "keystore", "token", … and their addresses.
Outcome<std::map<std::string, std::string>> discover(Client& client, const Remote& remote);

// The host and path of what a user writes for a remote; `insecure`: it was http://.
std::string without_scheme(std::string_view uri, bool& insecure);

}  // namespace postern::net
