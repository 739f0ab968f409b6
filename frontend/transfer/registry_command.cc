// registry login, logout, list: who one is at container registries.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

#include "frontend/keys/prompt.h"
#include "frontend/message/message.h"
#include "frontend/net/registry.h"
#include "frontend/net/remotes.h"
#include "frontend/transfer/command.h"
#include "frontend/transfer/sub_commands.h"
#include "protocol/exit_codes.h"

namespace postern::transfer {
namespace {

using option::Kind;

enum : option::CommandSet { kLogin = 1, kLogout = 2, kList = 4 };

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"authfile", 0, "AUTH_FILE", Kind::kText, kLogin | kLogout, "FILE", "use this credential file and no other"},
    {"config", 'c', "", Kind::kText, kLogin | kLogout | kList, "FILE", ""},
    {"no-https", 0, "NOHTTPS,NO_HTTPS", Kind::kFlag, kLogin, "", "the registry may speak plain HTTP, or show any certificate"},
    {"password", 'p', "LOGIN_PASSWORD", Kind::kText, kLogin, "PASSWORD", "better: --password-stdin"},
    {"password-stdin", 0, "", Kind::kFlag, kLogin, "", "read the password from standard input"},
    {"username", 'u', "LOGIN_USERNAME", Kind::kText, kLogin, "NAME", "user name"},
});
// clang-format on

// "docker://HOST", "oras://HOST[/PATH]" or a bare host.
struct Place {
  std::string uri;  // as it is kept in remote.yaml
  std::string host;
  std::string key;  // in credential files
};

Outcome<Place> place_of(const std::string& text) {
  std::string_view rest = text;
  std::string scheme(net::transport_of(text));
  // "localhost:5000" has a colon, and "docker:" alone is no host.
  const bool uri = text.find("://") != std::string::npos;
  if (uri && scheme != "docker" && scheme != "oras") {
    return Problem{
        .what = "transport '" + scheme + "' is not supported for registries",
        .cure = scheme.starts_with("http")
                    ? "name a registry as docker://HOST; a key server: postern keyserver login"
                    : "name a registry as docker://HOST or oras://HOST"};
  }
  if (uri) {
    rest = net::after_transport(text);
  } else {
    scheme = "docker";
  }
  while (rest.ends_with('/')) {
    rest.remove_suffix(1);
  }
  Place out;
  out.host = rest.substr(0, rest.find('/'));
  // The grammar of references says what a host is: with any repository behind it, this must be one.
  POSTERN_TRY_ASSIGN(const net::Reference probe, net::parse_reference(out.host + "/probe"));
  const bool hub = out.host == "docker.io" || out.host == "index.docker.io";
  if (!hub && probe.host != out.host) {
    return Problem{.what = "'" + out.host + "' is not a host",
                   .cure = "name one as docker://HOST[:PORT]"};
  }
  out.key = hub ? probe.credential_key() : std::string(rest);
  out.uri = scheme + "://" + std::string(rest);
  return out;
}

Outcome<std::string> password_of(const option::Arguments& arguments) {
  if (arguments.given("password-stdin")) {
    std::string out;
    for (int c = std::getchar(); c != EOF && out.size() < 65536; c = std::getchar()) {
      out += static_cast<char>(c);
    }
    for (const char end : {'\n', '\r'}) {
      if (out.ends_with(end)) {
        out.pop_back();
      }
    }
    return out;
  }
  if (arguments.given("password")) {
    return std::string(arguments.text("password"));
  }
  return keys::ask_secret("Password / Token: ");
}

Outcome<std::string> remotes_path(const option::Arguments& arguments) {
  return arguments.given("config") ? Outcome<std::string>(std::string(arguments.text("config")))
                                   : net::user_remotes_path();
}

Outcome<> note_login(const option::Arguments& arguments, const Place& place, bool on) {
  POSTERN_TRY_ASSIGN(const std::string path, remotes_path(arguments));
  POSTERN_TRY_ASSIGN(net::Remotes remotes, net::load_remotes_file(path));
  std::erase_if(remotes.logins, [&](const net::Login& login) { return login.uri == place.uri; });
  if (on) {
    remotes.logins.push_back({.uri = place.uri, .insecure = arguments.given("no-https")});
  }
  POSTERN_TRY(net::save_remotes(path, remotes, 0600));
  if (on) {
    message::info("Token stored in " + path);
  }
  return Ok{};
}

Outcome<> login(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const Place place, place_of(arguments.positional()[0]));
  net::Credentials credentials{.user = std::string(arguments.text("username"))};
  if (credentials.user.empty()) {
    return Problem{.what = "Docker/OCI registry requires a username",
                   .cure = "add --username NAME"};
  }
  POSTERN_TRY_ASSIGN(credentials.password, password_of(arguments));
  if (credentials.password.empty()) {
    return Problem{.what = "a password is required"};
  }
  net::Session session({.credentials = {.user = credentials.user, .password = credentials.password},
                        .no_https = arguments.given("no-https")});
  const std::string api =
      net::Reference{.host = place.key.starts_with("https://") ? "docker.io" : place.host}
          .api_host();
  POSTERN_TRY(net::check_login(session, api));
  POSTERN_TRY_ASSIGN(const std::string path,
                     net::credential_file_path(std::string(arguments.text("authfile"))));
  POSTERN_TRY_ASSIGN(net::CredentialFile file, net::CredentialFile::open(path));
  bool unencrypted = false;
  POSTERN_TRY(file.store(place.key, credentials, unencrypted));
  if (unencrypted) {
    message::warning("Your credentials are stored unencrypted in '" + path +
                     "'; a credential helper would keep them better");
  }
  message::info("Token stored in " + path);
  return arguments.given("authfile") ? Outcome<>() : note_login(arguments, place, true);
}

Outcome<> logout(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const Place place, place_of(arguments.positional()[0]));
  POSTERN_TRY_ASSIGN(const std::string path,
                     net::credential_file_path(std::string(arguments.text("authfile"))));
  POSTERN_TRY_ASSIGN(net::CredentialFile file, net::CredentialFile::open(path));
  POSTERN_TRY_ASSIGN(const bool was_there, file.erase(place.key));
  if (was_there) {
    message::info("Token removed from " + path);
  } else {
    message::warning("There is no existing login to registry \"" + place.uri + "\".");
  }
  if (!arguments.given("authfile")) {
    POSTERN_TRY(note_login(arguments, place, false));
  }
  message::info("Logout succeeded");
  return Ok{};
}

Outcome<> list(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const std::string path, remotes_path(arguments));
  POSTERN_TRY_ASSIGN(const net::Remotes remotes, net::load_remotes_file(path));
  std::vector<std::vector<std::string>> rows{{"URI", "SECURE?"}};
  for (const net::Login& login : remotes.logins) {
    rows.push_back({login.uri, login.insecure ? "✗!" : "✓"});
  }
  print_table(rows);
  return Ok{};
}

constexpr std::array kCommands = std::to_array<SubCommand>({
    {"list", "[options]", "Show where one is logged in", kList, 0, 0, list},
    {"login", "[options] URI", "Log in to a container registry", kLogin, 1, 1, login},
    {"logout", "[options] URI", "Log out of a container registry", kLogout, 1, 1, logout},
});

}  // namespace

int registry_command(std::span<const std::string> words) {
  return run_sub_command("registry", "Log in to container registries", kOptions, kCommands, words);
}

}  // namespace postern::transfer
