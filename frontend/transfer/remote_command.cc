// remote, keyserver: which servers a user and a site have named.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <string>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/keys/prompt.h"
#include "frontend/message/message.h"
#include "frontend/net/registry.h"
#include "frontend/net/remotes.h"
#include "frontend/transfer/command.h"
#include "frontend/transfer/sub_commands.h"
#include "policy/json/strict.h"
#include "policy/text/printable.h"
#include "protocol/base/unique_fd.h"

namespace postern::transfer {
namespace {

using option::Kind;

enum : option::CommandSet {
  kAdd = 1,
  kRemove = 2,
  kUse = 4,
  kList = 8,
  kLogin = 16,
  kLogout = 32,
  kStatus = 64,
  kPassword = 128,
  kKeyAdd = 256,
  kKeyRemove = 512,
  kKeyLogin = 1024
};

constexpr option::CommandSet kEvery = 2047;
constexpr unsigned kStatusSeconds = 10;
constexpr const char* kDefaultKeyServer = "https://keys.openpgp.org";

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"config", 'c', "", Kind::kText, kEvery, "FILE", "another file than ~/.postern/remote.yaml"},
    {"exclusive", 'e', "", Kind::kFlag, kUse, "", "nobody uses another one (root)"},
    {"global", 'g', "", Kind::kFlag, kAdd | kRemove | kUse, "", "in the site's file (root)"},
    {"insecure", 'i', "ADD_INSECURE,LOGIN_INSECURE", Kind::kFlag, kAdd | kLogin | kKeyAdd | kKeyLogin, "", "plain HTTP"},
    {"no-default", 'n', "", Kind::kFlag, kAdd, "", "do not use it from now on"},
    {"no-login", 0, "", Kind::kFlag, kAdd, "", "do not log in"},
    {"order", 'o', "", Kind::kText, kKeyAdd, "N", "place in the list, from 1 (default: last)"},
    {"password", 'p', "LOGIN_PASSWORD", Kind::kText, kLogin | kKeyLogin, "PASSWORD", "better: --password-stdin"},
    {"password-stdin", 0, "", Kind::kFlag, kLogin | kKeyLogin, "", "read the password from standard input"},
    {"tokenfile", 0, "", Kind::kText, kAdd | kLogin, "FILE", "holds the token, in its first line"},
    {"username", 'u', "LOGIN_USERNAME", Kind::kText, kLogin | kKeyLogin, "NAME", "user name"},
});
// clang-format on

Outcome<std::string> path_of(const option::Arguments& arguments) {
  return arguments.given("config") ? Outcome<std::string>(std::string(arguments.text("config")))
                                   : net::user_remotes_path();
}

// The user's file with the site's remotes in it, to be shown, changed and kept.
struct Opened {
  std::string path;
  net::Remotes remotes;
  unsigned mode = 0600;

  [[nodiscard]] Outcome<> save() const { return net::save_remotes(path, remotes, mode); }
};

Outcome<Opened> open(const option::Arguments& arguments, bool global) {
  Opened out;
  if (global) {
    if (::geteuid() != 0) {
      return Problem{.what = "only root changes the remotes of all users",
                     .cure = "leave out --global for one of your own"};
    }
    out.path = net::site_remotes_path();
    out.mode = 0644;
    POSTERN_TRY_ASSIGN(out.remotes, net::load_remotes_file(out.path));
    return out;
  }
  POSTERN_TRY_ASSIGN(out.path, path_of(arguments));
  if (arguments.given("config")) {
    POSTERN_TRY_ASSIGN(out.remotes, net::load_remotes_file(out.path));
  } else {
    POSTERN_TRY_ASSIGN(out.remotes, net::load_remotes());
  }
  return out;
}

net::Session session() {
  return net::Session(net::SessionOptions{});
}

std::string named(const net::Remotes& remotes, const option::Arguments& arguments) {
  return arguments.positional().empty() ? remotes.active : arguments.positional()[0];
}

// ---- tokens

Outcome<std::string> token_file(const std::string& path) {
  constexpr std::size_t kLeast = 200;
  constexpr std::size_t kMost = 4096;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  std::string text(kMost + 1, '\0');
  const ssize_t got = fd.valid() ? ::read(fd.get(), text.data(), text.size()) : -1;
  if (got < 0) {
    return system_problem("while reading tokenfile: opening '" + path + "'", errno);
  }
  text.resize(static_cast<std::size_t>(got));
  text = text.substr(0, text.find_first_of("\r\n"));
  if (text.size() < kLeast || text.size() > kMost) {
    return Problem{.what = std::string("while reading tokenfile: token is too ") +
                           (text.size() < kLeast ? "short" : "long") + " to be valid"};
  }
  return text;
}

Outcome<> check_token(net::Session& session, const net::Remote& remote, const std::string& token) {
  POSTERN_TRY_ASSIGN(const auto services, net::discover(session.client(), remote));
  const auto service = services.find("token");
  if (service == services.end()) {
    return Problem{.what = "while verifying token: token is not a service at endpoint"};
  }
  net::Request request{.url = service->second + "/v1/token-status"};
  request.authorization = "Bearer " + token;
  request.seconds = kStatusSeconds;
  POSTERN_TRY_ASSIGN(const net::Answer answer, session.client().perform(request));
  if (answer.status == 200) {
    return Ok{};
  }
  return Problem{.what = std::string("while verifying token: error response from server: ") +
                         (answer.status == 404   ? "Invalid Credentials"
                          : answer.status == 500 ? "Internal Server Error"
                                                 : "Unknown"),
                 .cure = "make a new token where the remote hands them out"};
}

bool is_token(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

// False: the user gave none.
Outcome<bool> log_in(Opened& opened, const std::string& name, const option::Arguments& arguments) {
  net::Remote& remote = opened.remotes.remotes.at(name);
  std::string token;
  if (arguments.given("tokenfile")) {
    POSTERN_TRY_ASSIGN(token, token_file(std::string(arguments.text("tokenfile"))));
  } else {
    if (!remote.token.empty()) {
      POSTERN_TRY_ASSIGN(
          const bool yes,
          keys::ask_yes("An access token is already set for this remote. Replace it? [y/N] "));
      if (!yes) {
        return false;
      }
    }
    std::printf(
        "Generate an access token at %s/auth/tokens, and paste it here.\nToken entered will be "
        "hidden for security.\n",
        ((remote.insecure ? "http://" : "https://") + remote.uri).c_str());
    std::fflush(stdout);
    POSTERN_TRY_ASSIGN(token, keys::ask_secret("Access Token: "));
  }
  if (token.empty()) {
    return false;
  }
  if (!is_token(token)) {
    return Problem{.what = "the token has bytes that no token has"};
  }
  net::Session own = session();
  POSTERN_TRY(check_token(own, remote, token));
  remote.token = token;
  message::info("Access Token Verified!");
  return true;
}

// ---- remote

Outcome<> add(const option::Arguments& arguments) {
  const std::string& name = arguments.positional()[0];
  const bool global = arguments.given("global");
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, global));
  bool plain = false;
  net::Remote remote{.uri = net::without_scheme(arguments.positional()[1], plain)};
  remote.insecure = arguments.given("insecure");
  remote.system = global;
  if (plain && !remote.insecure) {
    return Problem{.what = "http URI requires --insecure or APPTAINER_ADD_INSECURE=true"};
  }
  POSTERN_TRY(net::origin_of("https://" + remote.uri));
  if (!opened.remotes.remotes.emplace(name, remote).second) {
    return Problem{.what = name + " is already a remote",
                   .cure = "choose another name, or remove it first"};
  }
  if (!arguments.given("no-default")) {
    opened.remotes.active = name;
  }
  POSTERN_TRY(opened.save());
  message::info("Remote \"" + name + "\" added.");
  if (global || arguments.given("no-login")) {
    return Ok{};
  }
  POSTERN_TRY_ASSIGN(const bool logged_in, log_in(opened, name, arguments));
  if (logged_in) {
    POSTERN_TRY(opened.save());
    message::info("Token stored in " + opened.path);
  }
  return Ok{};
}

Outcome<> remove(const option::Arguments& arguments) {
  const std::string& name = arguments.positional()[0];
  const bool global = arguments.given("global");
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, global));
  const auto found = opened.remotes.remotes.find(name);
  if (found == opened.remotes.remotes.end()) {
    return Problem{.what = name + " is not a remote"};
  }
  if (found->second.system && !global) {
    return Problem{.what = name + " is global and can't be removed"};
  }
  opened.remotes.remotes.erase(found);
  if (opened.remotes.active == name) {
    opened.remotes.active.clear();
  }
  POSTERN_TRY(opened.save());
  message::info("Remote \"" + name + "\" removed.");
  return Ok{};
}

Outcome<> use(const option::Arguments& arguments) {
  const std::string& name = arguments.positional()[0];
  const bool exclusive = arguments.given("exclusive");
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, arguments.given("global") || exclusive));
  if (opened.remotes.find(name) == nullptr || name.empty()) {
    return Problem{.what = name + " is not a remote", .cure = "see postern remote list"};
  }
  for (auto& [other, remote] : opened.remotes.remotes) {
    if (exclusive) {
      remote.exclusive = other == name;
    } else if (remote.exclusive && other != name) {
      return Problem{.what = "could not use " + name + ": remote " + other +
                             " has been set exclusive by the system administrator"};
    }
  }
  opened.remotes.active = name;
  POSTERN_TRY(opened.save());
  message::info("Remote \"" + name + "\" now in use.");
  return Ok{};
}

Outcome<> list(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const Opened opened, open(arguments, false));
  std::vector<std::vector<std::string>> rows{
      {"NAME", "URI", "DEFAULT?", "GLOBAL?", "EXCLUSIVE?", "SECURE?"}};
  for (const auto& [name, remote] : opened.remotes.remotes) {
    rows.push_back({name, remote.uri, name == opened.remotes.active ? "✓" : "",
                    remote.system ? "✓" : "", remote.exclusive ? "✓" : "",
                    remote.insecure ? "✗!" : "✓"});
  }
  print_table(rows);
  return Ok{};
}

Outcome<> login(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, false));
  const std::string name = named(opened.remotes, arguments);
  if (opened.remotes.find(name) == nullptr) {
    return Problem{
        .what = name.empty() ? "no default endpoint set" : name + " is not a remote",
        .cure = "a registry: postern registry login; a key server: postern keyserver login"};
  }
  POSTERN_TRY_ASSIGN(const bool logged_in, log_in(opened, name, arguments));
  if (!logged_in) {
    return Ok{};
  }
  POSTERN_TRY(opened.save());
  message::info("Token stored in " + opened.path);
  return Ok{};
}

Outcome<> logout(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, false));
  const auto found = opened.remotes.remotes.find(named(opened.remotes, arguments));
  if (found == opened.remotes.remotes.end()) {
    return Problem{.what = named(opened.remotes, arguments) + " is not a remote"};
  }
  found->second.token.clear();
  POSTERN_TRY(opened.save());
  message::info("Logout succeeded");
  return Ok{};
}

std::string title(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') {
    text[0] = static_cast<char>(text[0] - 32);
  }
  return text;
}

Outcome<> status(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const Opened opened, open(arguments, false));
  const std::string name = named(opened.remotes, arguments);
  const net::Remote* const remote = opened.remotes.find(name);
  if (remote == nullptr) {
    return Problem{.what = name.empty() ? "no default endpoint set" : name + " is not a remote"};
  }
  message::info(arguments.positional().empty() ? "Checking status of default remote."
                                               : "Checking status of remote: " + name);
  net::Session own = session();
  POSTERN_TRY_ASSIGN(const auto services, net::discover(own.client(), *remote));
  std::vector<std::vector<std::string>> rows{{"SERVICE", "STATUS", "VERSION", "URI"}};
  for (const auto& [service, uri] : services) {
    net::Request request{.url = uri + "/version", .retry = false};
    request.seconds = kStatusSeconds;
    const auto answer = own.client().perform(request);
    const bool good = answer && answer->status == 200;
    std::string version;
    if (const auto document = good ? json::parse(answer->body) : Outcome<json::Value>(Problem{});
        document) {
      const json::Value* data = document->find("data", json::Value::Kind::kObject);
      const json::Value* text =
          (data != nullptr ? data : &*document)->find("version", json::Value::Kind::kString);
      version = text != nullptr ? text->text : "";
    }
    rows.push_back({title(service), good ? "OK" : "N/A", version, uri});
  }
  print_table(rows);
  if (remote->token.empty()) {
    std::puts("\nNo authentication token set (logged out).");
    return Ok{};
  }
  if (const auto good = check_token(own, *remote, remote->token); !good) {
    return Problem{.what = "Authentication token is invalid (please login again).",
                   .cure = good.error().what};
  }
  message::info("Valid authentication token set (logged in).");
  return Ok{};
}

Outcome<> login_password(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const Opened opened, open(arguments, false));
  const net::Remote* const remote = opened.remotes.find("");
  if (remote == nullptr || remote->token.empty()) {
    return Problem{.what = "one is logged in to no remote", .cure = "postern remote login"};
  }
  net::Session own = session();
  POSTERN_TRY_ASSIGN(const auto services, net::discover(own.client(), *remote));
  const auto library = services.find("library");
  if (library == services.end()) {
    return Problem{.what = "library is not a service at endpoint"};
  }
  net::Request request{.url = library->second + "/v1/rbac/users/current"};
  request.authorization = "Bearer " + remote->token;
  request.seconds = kStatusSeconds;
  POSTERN_TRY_ASSIGN(const net::Answer answer, own.client().perform(request));
  const auto document = json::parse(answer.body);
  const json::Value* const meta =
      document ? document->find("oidc_user_meta", json::Value::Kind::kObject) : nullptr;
  const json::Value* const secret =
      meta != nullptr ? meta->find("secret", json::Value::Kind::kString) : nullptr;
  if (answer.status != 200 || secret == nullptr || !is_token(secret->text)) {
    return net::unexpected_answer("asking for the registry's password", answer);
  }
  std::puts(secret->text.c_str());
  return Ok{};
}

// ---- keyserver

// "hkps://host" and "https://host" are one server.
std::string same_server(std::string_view uri) {
  std::string out(uri);
  for (const auto& [from, to] :
       {std::pair{"hkps://", "https://"}, std::pair{"hkp://", "http://"}}) {
    if (out.starts_with(from)) {
      out = to + out.substr(std::string_view(from).size()) +
            (from == std::string_view("hkp://") ? ":11371" : "");
    }
  }
  while (out.ends_with('/')) {
    out.pop_back();
  }
  return out;
}

Outcome<Opened> open_site(const option::Arguments& arguments, const char* what) {
  if (::geteuid() != 0) {
    return Problem{.what = std::string(what) + ": not root user",
                   .cure = "name a server for one command with --url"};
  }
  return open(arguments, true);
}

// The remote whose key servers are meant: of two operands the first, else the active one.
Outcome<net::Remote*> key_remote(Opened& opened, const option::Arguments& arguments) {
  const std::string name =
      arguments.positional().size() == 2 ? arguments.positional()[0] : opened.remotes.active;
  const auto found = opened.remotes.remotes.find(name);
  if (found == opened.remotes.remotes.end()) {
    return Problem{.what = "current endpoint is not a system defined endpoint",
                   .cure = "make one: postern remote add --global NAME URI"};
  }
  return &found->second;
}

// What applies where nothing is said: the remote's own server.
Outcome<std::vector<net::KeyServer>> key_servers_of(const net::Remote& remote) {
  if (!remote.key_servers.empty()) {
    return remote.key_servers;
  }
  net::Session own = session();
  const auto services = net::discover(own.client(), remote);
  const bool known = services && services->find("keystore") != services->end();
  return std::vector<net::KeyServer>{{.uri = known ? services->at("keystore") : kDefaultKeyServer}};
}

Outcome<> key_add(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(Opened opened,
                     open_site(arguments, "Unable to modify keyserver configuration"));
  POSTERN_TRY_ASSIGN(net::Remote* const remote, key_remote(opened, arguments));
  POSTERN_TRY_ASSIGN(std::vector<net::KeyServer> servers, key_servers_of(*remote));
  const std::string uri = same_server(arguments.positional().back());
  POSTERN_TRY(net::origin_of(uri));
  for (const net::KeyServer& server : servers) {
    if (same_server(server.uri) == uri && !server.skip) {
      return Problem{.what = uri + " is already configured"};
    }
  }
  std::size_t order = servers.size() + 1;
  if (const std::string_view text = arguments.text("order"); !text.empty()) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), order);
    if (error != std::errc() || end != text.data() + text.size() || order < 1 ||
        order > servers.size() + 1) {
      return Problem{.what =
                         "order is out of range: maximum is " + std::to_string(servers.size() + 1)};
    }
  }
  servers.insert(servers.begin() + static_cast<std::ptrdiff_t>(order - 1),
                 {.uri = uri, .external = true, .insecure = arguments.given("insecure")});
  remote->key_servers = std::move(servers);
  return opened.save();
}

Outcome<> key_remove(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(Opened opened,
                     open_site(arguments, "Unable to modify keyserver configuration"));
  POSTERN_TRY_ASSIGN(net::Remote* const remote, key_remote(opened, arguments));
  POSTERN_TRY_ASSIGN(std::vector<net::KeyServer> servers, key_servers_of(*remote));
  const std::string uri = same_server(arguments.positional().back());
  const auto found = std::find_if(
      servers.begin(), servers.end(),
      [&](const net::KeyServer& server) { return same_server(server.uri) == uri && !server.skip; });
  if (found == servers.end()) {
    return Problem{.what = "keyserver " + uri + " is not configured"};
  }
  const auto left = std::count_if(servers.begin(), servers.end(),
                                  [](const net::KeyServer& server) { return !server.skip; });
  if (left == 1) {
    return Problem{.what = "the primary keyserver " + uri + " can't be removed"};
  }
  if (found->external) {
    servers.erase(found);
  } else {
    found->skip = true;
  }
  remote->key_servers = std::move(servers);
  return opened.save();
}

Outcome<> key_list(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(const Opened opened, open(arguments, false));
  std::string out;
  for (const auto& [name, remote] : opened.remotes.remotes) {
    if (!arguments.positional().empty() && arguments.positional()[0] != name) {
      continue;
    }
    out += "\n" + name + (remote.system || name == opened.remotes.active ? " " : "") +
           (remote.system ? "*" : "") + (name == opened.remotes.active ? "^" : "") + "\n";
    POSTERN_TRY_ASSIGN(const std::vector<net::KeyServer> servers, key_servers_of(remote));
    std::size_t number = 0;
    for (const net::KeyServer& server : servers) {
      if (!server.skip) {
        out += "   #" + std::to_string(++number) + "  " + text::printable(server.uri) +
               (server.insecure ? "" : "  🔒") + "\n";
      }
    }
  }
  if (opened.remotes.remotes.empty()) {
    out +=
        std::string("\nno remote is configured: key servers of old remain the default\n   #1  ") +
        kDefaultKeyServer + "  🔒\n";
  }
  std::fputs((out + "\n(* = system endpoint, ^ = default endpoint)\n").c_str(), stdout);
  return Ok{};
}

Outcome<> key_login(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, false));
  const std::string uri = same_server(arguments.positional()[0]);
  bool known = false;
  for (const auto& [name, remote] : opened.remotes.remotes) {
    for (const net::KeyServer& server : remote.key_servers) {
      known = known || (server.external && same_server(server.uri) == uri);
    }
  }
  if (!known) {
    return Problem{.what = "no external keyserver configuration found for " + uri,
                   .cure = "root names it first: postern keyserver add " + uri};
  }
  std::string secret;
  if (arguments.given("password-stdin")) {
    for (int c = std::getchar(); c != EOF && c != '\n' && secret.size() < 65536;
         c = std::getchar()) {
      secret += static_cast<char>(c);
    }
  } else if (arguments.given("password")) {
    secret = arguments.text("password");
  } else {
    POSTERN_TRY_ASSIGN(secret, keys::ask_secret("Password / Token: "));
  }
  const std::string user(arguments.text("username"));
  if (secret.empty() || (user.empty() && !is_token(secret))) {
    return Problem{.what = "a password or a token is required"};
  }
  net::Request request{.url = uri};
  request.authorization =
      user.empty() ? "Bearer " + secret : net::basic_authorization(user, secret);
  request.seconds = kStatusSeconds;
  net::Session own = session();
  POSTERN_TRY_ASSIGN(const net::Answer answer, own.client().perform(request));
  if (answer.status != 200) {
    return net::unexpected_answer("logging in to " + uri, answer);
  }
  std::erase_if(opened.remotes.logins, [&](const net::Login& login) { return login.uri == uri; });
  opened.remotes.logins.push_back({.uri = uri,
                                   .authorization = request.authorization,
                                   .insecure = arguments.given("insecure")});
  POSTERN_TRY(opened.save());
  message::info("Token stored in " + opened.path);
  return Ok{};
}

Outcome<> key_logout(const option::Arguments& arguments) {
  POSTERN_TRY_ASSIGN(Opened opened, open(arguments, false));
  const std::string uri = same_server(arguments.positional()[0]);
  if (std::erase_if(opened.remotes.logins,
                    [&](const net::Login& login) { return login.uri == uri; }) == 0) {
    message::warning("There is no existing login to keyserver \"" + uri + "\".");
  }
  POSTERN_TRY(opened.save());
  message::info("Logout succeeded");
  return Ok{};
}

constexpr std::array kRemoteCommands = std::to_array<SubCommand>({
    {"add", "[options] NAME URI", "Name a remote, use it and log in to it", kAdd, 2, 2, add},
    {"get-login-password", "", "Print the password for the remote's registry", kPassword, 0, 0,
     login_password},
    {"list", "", "Show the remotes", kList, 0, 0, list},
    {"login", "[options] [NAME]", "Log in to a remote", kLogin, 0, 1, login},
    {"logout", "[NAME]", "Log out of a remote", kLogout, 0, 1, logout},
    {"remove", "[options] NAME", "Forget a remote", kRemove, 1, 1, remove},
    {"status", "[NAME]", "Ask the services of a remote", kStatus, 0, 1, status},
    {"use", "[options] NAME", "Use this remote from now on", kUse, 1, 1, use},
});

constexpr std::array kKeyCommands = std::to_array<SubCommand>({
    {"add", "[options] [REMOTE] URI", "Add a key server (root)", kKeyAdd, 1, 2, key_add},
    {"list", "[REMOTE]", "Show the key servers", kList, 0, 1, key_list},
    {"login", "[options] URI", "Log in to a key server", kKeyLogin, 1, 1, key_login},
    {"logout", "URI", "Log out of a key server", kLogout, 1, 1, key_logout},
    {"remove", "[REMOTE] URI", "Remove a key server (root)", kKeyRemove, 1, 2, key_remove},
});

}  // namespace

int remote_command(std::span<const std::string> words) {
  return run_sub_command("remote", "Manage remotes: where libraries and key servers are", kOptions,
                         kRemoteCommands, words);
}

int keyserver_command(std::span<const std::string> words) {
  return run_sub_command("keyserver", "Manage key servers", kOptions, kKeyCommands, words);
}

}  // namespace postern::transfer
