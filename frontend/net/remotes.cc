#include "frontend/net/remotes.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include "frontend/message/message.h"
#include "frontend/net/credentials.h"
#include "policy/json/strict.h"
#include "protocol/base/unique_fd.h"

namespace postern::net {
namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 20;
constexpr unsigned kDiscoverySeconds = 10;

Problem malformed(const std::string& path, const std::string& why) {
  return Problem{.what = "'" + path + "' is not a file of remotes: " + why,
                 .cure = "mend it, or move it away and log in again"};
}

// yaml-cpp throws; nothing of it leaves these functions.
class Reader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)) {}

  Remotes read(const YAML::Node& top) {
    Remotes out;
    only(top, {"Active", "Remotes", "Credentials"});
    out.active = text(top, "Active");
    for (const auto& entry : top["Remotes"] ? top["Remotes"] : YAML::Node()) {
      out.remotes[entry.first.as<std::string>()] = remote(entry.second);
    }
    for (const auto& entry : top["Credentials"] ? top["Credentials"] : YAML::Node()) {
      only(entry, {"URI", "Auth", "Insecure"});
      out.logins.push_back({.uri = text(entry, "URI"),
                            .authorization = text(entry, "Auth"),
                            .insecure = flag(entry, "Insecure")});
    }
    return out;
  }

 private:
  static std::string text(const YAML::Node& node, const char* key) {
    return node[key] && !node[key].IsNull() ? node[key].as<std::string>() : std::string();
  }

  static bool flag(const YAML::Node& node, const char* key) {
    return node[key] ? node[key].as<bool>() : false;
  }

  static void only(const YAML::Node& node, std::initializer_list<std::string_view> known) {
    for (const auto& entry : node) {
      const auto name = entry.first.as<std::string>();
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        throw YAML::Exception(entry.first.Mark(), "'" + name + "' is not known");
      }
    }
  }

  static Remote remote(const YAML::Node& node) {
    only(node, {"URI", "Token", "System", "Exclusive", "Insecure", "Keyservers"});
    Remote out{.uri = text(node, "URI"),
               .token = text(node, "Token"),
               .system = flag(node, "System"),
               .exclusive = flag(node, "Exclusive"),
               .insecure = flag(node, "Insecure")};
    for (const auto& entry : node["Keyservers"] ? node["Keyservers"] : YAML::Node()) {
      only(entry, {"URI", "Skip", "External", "Insecure"});
      out.key_servers.push_back({.uri = text(entry, "URI"),
                                 .skip = flag(entry, "Skip"),
                                 .external = flag(entry, "External"),
                                 .insecure = flag(entry, "Insecure")});
    }
    return out;
  }

  std::string path_;
};

bool is_header_value(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

const Remote* Remotes::find(const std::string& name) const {
  const auto found = remotes.find(name.empty() ? active : name);
  return found == remotes.end() ? nullptr : &found->second;
}

Outcome<Remotes> parse_remotes(std::string_view text, const std::string& path) {
  if (text.size() > kMaxFile) {
    return malformed(path, "it is too large");
  }
  // An alias is expanded where it is used, and a few lines of them fill all memory.
  if (text.find_first_of("&*") != std::string_view::npos &&
      (text.find(": &") != std::string_view::npos || text.find(": *") != std::string_view::npos ||
       text.find("- *") != std::string_view::npos || text.find("- &") != std::string_view::npos)) {
    return malformed(path, "it has anchors or aliases");
  }
  std::size_t depth = 0;
  std::size_t deepest = 0;
  for (const char c : text) {
    depth = c == '[' || c == '{'                  ? depth + 1
            : (c == ']' || c == '}') && depth > 0 ? depth - 1
                                                  : depth;
    deepest = std::max(deepest, depth);
  }
  constexpr std::size_t kMaxDepth = 16;
  if (deepest > kMaxDepth) {
    return malformed(path, "it nests too deep");
  }
  Remotes out;
  try {
    const YAML::Node top = YAML::Load(std::string(text));
    if (top.IsNull()) {
      return out;
    }
    if (!top.IsMap()) {
      return malformed(path, "its top is no mapping");
    }
    out = Reader(path).read(top);
  } catch (const YAML::Exception& error) {
    return malformed(path, error.what());
  }
  for (const auto& [name, remote] : out.remotes) {
    if (!is_header_value(remote.token)) {
      return malformed(path, "the token of '" + name + "' has bytes that no token has");
    }
  }
  for (const Login& login : out.logins) {
    if (!is_header_value(login.authorization)) {
      return malformed(path, "the credentials for '" + login.uri + "' have bytes that none have");
    }
  }
  return out;
}

std::string remotes_text(const Remotes& remotes) {
  YAML::Emitter out;
  out.SetIndent(4);
  out << YAML::BeginMap << YAML::Key << "Active" << YAML::Value << remotes.active;
  out << YAML::Key << "Remotes" << YAML::Value << YAML::BeginMap;
  for (const auto& [name, remote] : remotes.remotes) {
    out << YAML::Key << name << YAML::Value << YAML::BeginMap;
    out << YAML::Key << "URI" << YAML::Value << remote.uri;
    if (!remote.token.empty()) {
      out << YAML::Key << "Token" << YAML::Value << remote.token;
    }
    out << YAML::Key << "System" << YAML::Value << remote.system;
    out << YAML::Key << "Exclusive" << YAML::Value << remote.exclusive;
    if (remote.insecure) {
      out << YAML::Key << "Insecure" << YAML::Value << true;
    }
    if (!remote.key_servers.empty()) {
      out << YAML::Key << "Keyservers" << YAML::Value << YAML::BeginSeq;
      for (const KeyServer& server : remote.key_servers) {
        out << YAML::BeginMap << YAML::Key << "URI" << YAML::Value << server.uri;
        out << YAML::Key << "Skip" << YAML::Value << server.skip;
        out << YAML::Key << "External" << YAML::Value << server.external;
        out << YAML::Key << "Insecure" << YAML::Value << server.insecure << YAML::EndMap;
      }
      out << YAML::EndSeq;
    }
    out << YAML::EndMap;
  }
  out << YAML::EndMap;
  if (!remotes.logins.empty()) {
    out << YAML::Key << "Credentials" << YAML::Value << YAML::BeginSeq;
    for (const Login& login : remotes.logins) {
      out << YAML::BeginMap << YAML::Key << "URI" << YAML::Value << login.uri;
      if (!login.authorization.empty()) {
        out << YAML::Key << "Auth" << YAML::Value << login.authorization;
      }
      out << YAML::Key << "Insecure" << YAML::Value << login.insecure << YAML::EndMap;
    }
    out << YAML::EndSeq;
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

Outcome<std::string> user_remotes_path() {
  POSTERN_TRY_ASSIGN(const std::string directory, configuration_directory());
  return directory + "/remote.yaml";
}

std::string site_remotes_path() {
  const std::string file = variable("CONFIG_FILE");
  const std::size_t slash = file.rfind('/');
  return (slash == std::string::npos || slash == 0 ? POSTERN_CONFDIR : file.substr(0, slash)) +
         "/remote.yaml";
}

Outcome<Remotes> load_remotes_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) {
    return errno == ENOENT ? Outcome<Remotes>(Remotes{})
                           : system_problem("opening '" + path + "'", errno);
  }
  std::string text;
  std::array<char, 16384> piece;
  for (ssize_t got = 1; got > 0 && text.size() <= kMaxFile;) {
    got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0) {
      return system_problem("reading '" + path + "'", errno);
    }
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  return parse_remotes(text, path);
}

Outcome<Remotes> load_remotes() {
  POSTERN_TRY_ASSIGN(const std::string path, user_remotes_path());
  POSTERN_TRY_ASSIGN(Remotes user, load_remotes_file(path));
  POSTERN_TRY_ASSIGN(const Remotes site, load_remotes_file(site_remotes_path()));
  for (const auto& [name, remote] : site.remotes) {
    const auto own = user.remotes.find(name);
    if (own != user.remotes.end() && !own->second.system) {
      message::info(name + " defined both globally and individually, using individual");
      continue;
    }
    Remote merged = remote;
    merged.system = true;
    merged.token = own != user.remotes.end() ? own->second.token : "";
    user.remotes[name] = std::move(merged);
    if (remote.exclusive) {
      user.active = name;
    }
  }
  std::erase_if(user.remotes, [&](const auto& entry) {
    return entry.second.system && site.remotes.find(entry.first) == site.remotes.end();
  });
  if (user.active.empty()) {
    user.active = site.active;
  }
  return user;
}

Outcome<> save_remotes(const std::string& path, const Remotes& remotes, unsigned mode) {
  return replace_private_file(path, remotes_text(remotes), mode);
}

std::string without_scheme(std::string_view uri, bool& insecure) {
  insecure = uri.starts_with("http://");
  const std::size_t scheme = uri.find("://");
  std::string out(scheme == std::string_view::npos ? uri : uri.substr(scheme + 3));
  while (out.ends_with('/')) {
    out.pop_back();
  }
  return out;
}

Outcome<std::map<std::string, std::string>> discover(Client& client, const Remote& remote) {
  const std::string base = (remote.insecure ? "http://" : "https://") + remote.uri;
  Request request{.url = base + "/assets/config/config.prod.json"};
  request.seconds = kDiscoverySeconds;
  POSTERN_TRY_ASSIGN(const Answer answer, client.perform(request));
  if (answer.status != 200) {
    return unexpected_answer("asking " + base + " for its services", answer);
  }
  const auto document = json::parse(answer.body);
  if (!document || document->kind != json::Value::Kind::kObject) {
    return Problem{.what = base + " does not say which services it has",
                   .cure = "check the address of the remote"};
  }
  constexpr std::string_view kSuffix = "API";
  std::map<std::string, std::string> out;
  for (const json::Member& member : document->members) {
    const json::Value* uri = member.value.find("uri", json::Value::Kind::kString);
    if (member.name.ends_with(kSuffix) && uri != nullptr) {
      POSTERN_TRY_ASSIGN(const std::string address, resolve_url(base + "/", uri->text));
      std::string plain = address;
      while (plain.ends_with('/')) {
        plain.pop_back();
      }
      out[member.name.substr(0, member.name.size() - kSuffix.size())] = std::move(plain);
    }
  }
  return out;
}

}  // namespace postern::net
