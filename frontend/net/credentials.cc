#include "frontend/net/credentials.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <pwd.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/system/replace_file.h"
#include "frontend/system/spawn.h"
#include "policy/json/strict.h"
#include "policy/text/base64.h"
#include "protocol/base/unique_fd.h"

namespace postern::net {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxFile = std::size_t{1} << 20;

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody changes it
  return value != nullptr ? value : "";
}

Outcome<std::string> home() {
  if (std::string path = environment("HOME"); path.starts_with('/')) {
    return path;
  }
  std::vector<char> buffer(std::size_t{64} << 10);
  struct passwd entry{};
  struct passwd* found = nullptr;
  if (::getpwuid_r(::getuid(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return Problem{.what = "no home directory is known for this user", .cure = "set HOME"};
  }
  return std::string(found->pw_dir);
}

Outcome<std::string> read_bounded(const std::string& path, int fd) {
  std::string out;
  std::array<char, 16384> piece;
  while (true) {
    const ssize_t got = ::read(fd, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return system_problem("reading '" + path + "'", errno);
    }
    if (got == 0) {
      return out;
    }
    out.append(piece.data(), static_cast<std::size_t>(got));
    if (out.size() > kMaxFile) {
      return Problem{.what = "'" + path + "' is larger than a credential file can be"};
    }
  }
}

// A host of any form that stands in credential files: "https://host/v1/", "host:port/", "host".
std::string bare_host(std::string_view key) {
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (key.starts_with(scheme)) {
      key.remove_prefix(scheme.size());
    }
  }
  return std::string(key.substr(0, key.find('/')));
}

// ---- docker-credential-NAME (the protocol of docker/docker-credential-helpers)

struct HelperAnswer {
  int status = 0;
  std::string text;
};

Outcome<HelperAnswer> run_helper(const std::string& name,
                                 const std::string& verb,
                                 const std::string& input) {
  const std::string program = "docker-credential-" + name;
  const UniqueFd text(::memfd_create("credentials", MFD_CLOEXEC));
  if (!text.valid() ||
      ::pwrite(text.get(), input.data(), input.size(), 0) != static_cast<ssize_t>(input.size())) {
    return system_problem("starting " + program, errno);
  }
  auto done = system::run_and_read(
      {.program = program, .words = {program, verb}, .passed = {{text.get(), STDIN_FILENO}}},
      kMaxFile);
  if (!done) {
    return system_problem("starting " + program, done.error().err,
                          "install that credential helper, or take it out of the credential file");
  }
  return HelperAnswer{WIFEXITED(done->status) ? WEXITSTATUS(done->status) : 255,
                      std::move(done->output)};
}

std::string first_line(const std::string& text) {
  return text.substr(0, std::min<std::size_t>(text.find('\n'), 200));
}

Outcome<std::optional<Credentials>> ask_helper(const std::string& name, const std::string& key) {
  POSTERN_TRY_ASSIGN(const HelperAnswer answer, run_helper(name, "get", key));
  if (answer.status != 0) {
    if (answer.text.find("credentials not found") != std::string::npos) {
      return std::optional<Credentials>();
    }
    return Problem{.what = "docker-credential-" + name + " failed: " + first_line(answer.text)};
  }
  POSTERN_TRY_ASSIGN(const json::Value document, json::parse(answer.text));
  using Kind = json::Value::Kind;
  const json::Value* user = document.find("username", Kind::kString);
  const json::Value* secret = document.find("secret", Kind::kString);
  if (user == nullptr || secret == nullptr) {
    return Problem{.what = "docker-credential-" + name + " answered without Username and Secret"};
  }
  Credentials out;
  if (user->text == "<token>") {
    out.identity_token = secret->text;
  } else {
    out.user = user->text;
    out.password = secret->text;
  }
  return std::optional(std::move(out));
}

// ---- entries of "auths"

Outcome<Credentials> credentials_of(const json::Value& entry, const std::string& where) {
  using Kind = json::Value::Kind;
  const auto text = [&](std::string_view name) {
    const json::Value* value = entry.find(name, Kind::kString);
    return value != nullptr ? value->text : std::string();
  };
  Credentials out{.user = text("username"),
                  .password = text("password"),
                  .identity_token = text("identitytoken"),
                  .registry_token = text("registrytoken")};
  if (const std::string auth = text("auth"); !auth.empty()) {
    const auto bytes = postern::text::decode_base64(auth);
    const std::string plain = bytes ? std::string(bytes->begin(), bytes->end()) : "";
    const std::size_t colon = plain.find(':');
    if (colon == std::string::npos) {
      return Problem{.what = where + " has an 'auth' that is not base64 of USER:PASSWORD"};
    }
    out.user = plain.substr(0, colon);
    out.password = plain.substr(colon + 1);
    // Some tools fill the field up with NUL bytes.
    out.password.erase(std::find(out.password.begin(), out.password.end(), '\0'),
                       out.password.end());
  }
  return out;
}

}  // namespace

std::string variable(const std::string& name) {
  for (const char* prefix : {"POSTERN_", "APPTAINER_", "SINGULARITY_"}) {
    if (std::string value = environment((prefix + name).c_str()); !value.empty()) {
      return value;
    }
  }
  return {};
}

Outcome<std::string> configuration_directory() {
  if (std::string path = variable("CONFIGDIR"); !path.empty()) {
    return path;
  }
  POSTERN_TRY_ASSIGN(const std::string base, home());
  return base + "/.postern";
}

Outcome<> replace_private_file(const std::string& path, std::string_view text, unsigned mode) {
  const std::size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash != 0) {
    const std::string directory = path.substr(0, slash);
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
      return system_problem("making the directory '" + directory + "'", errno);
    }
  }
  return system::replace_file(path, text, mode);
}

Outcome<CredentialFile> CredentialFile::parse(std::string_view text, const std::string& path) {
  const auto document = json::parse(text);
  if (!document || document->kind != json::Value::Kind::kObject) {
    return Problem{.what = "the credential file '" + path + "' is not JSON as Docker writes it" +
                           (document ? "" : ": " + document.error().what),
                   .cure = "mend it, or name another with --authfile"};
  }
  CredentialFile out;
  out.path_ = path;
  out.text_ = text;
  return out;
}

Outcome<CredentialFile> CredentialFile::open(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid() && errno == ENOENT) {
    return parse("{}", path);
  }
  if (!fd.valid()) {
    return system_problem("opening the credential file '" + path + "'", errno);
  }
  POSTERN_TRY_ASSIGN(const std::string text, read_bounded(path, fd.get()));
  return parse(text.find_first_not_of(" \t\r\n") == std::string::npos ? "{}" : text, path);
}

std::string CredentialFile::helper_for(const std::string& key) const {
  using Kind = json::Value::Kind;
  const auto document = json::parse(text_);
  if (!document) {
    return {};
  }
  if (const json::Value* helpers = document->find("credHelpers", Kind::kObject);
      helpers != nullptr) {
    for (const json::Member& member : helpers->members) {
      const bool same = member.name == key || member.name == bare_host(key);
      if (same && member.value.kind == Kind::kString) {
        return member.value.text;
      }
    }
  }
  const json::Value* store = document->find("credsStore", Kind::kString);
  return store != nullptr ? store->text : "";
}

Outcome<std::optional<Credentials>> CredentialFile::find(const std::string& key,
                                                         const std::string& repository) const {
  using Kind = json::Value::Kind;
  if (const std::string helper = helper_for(key); !helper.empty()) {
    if (helper.find('/') != std::string::npos) {
      return Problem{.what = "'" + path_ + "' names the credential helper '" + helper + "'",
                     .cure = "a helper's name has no slash"};
    }
    return ask_helper(helper, key);
  }
  POSTERN_TRY_ASSIGN(const json::Value document, json::parse(text_));
  const json::Value* auths = document.find("auths", Kind::kObject);
  if (auths == nullptr) {
    return std::optional<Credentials>();
  }
  const json::Member* best = nullptr;
  int rank = 0;
  for (const json::Member& member : auths->members) {
    // The repository, or what stands above it; then the host as it is; then in other forms.
    const std::string full = key + "/" + repository;
    const bool above = member.name.find('/') != std::string::npos &&
                       (full == member.name || full.starts_with(member.name + "/"));
    const int own = above                ? 1000 + static_cast<int>(member.name.size())
                    : member.name == key ? 2
                    : bare_host(member.name) == bare_host(key) ? 1
                                                               : 0;
    if (own > rank) {
      rank = own;
      best = &member;
    }
  }
  if (best == nullptr) {
    return std::optional<Credentials>();
  }
  POSTERN_TRY_ASSIGN(Credentials out,
                     credentials_of(best->value, "'" + best->name + "' in '" + path_ + "'"));
  return out.empty() ? std::optional<Credentials>() : std::optional(std::move(out));
}

Outcome<> CredentialFile::store(const std::string& key,
                                const Credentials& credentials,
                                bool& unencrypted) {
  const std::string helper = helper_for(key);
  unencrypted = helper.empty();
  Json document = Json::parse(text_, nullptr, false);
  if (document.is_discarded() || !document.is_object()) {
    return Problem{.what = "the credential file '" + path_ + "' is not JSON"};
  }
  if (!helper.empty()) {
    const std::string input = "{\"ServerURL\":" + json::quoted(key) +
                              ",\"Username\":" + json::quoted(credentials.user) +
                              ",\"Secret\":" + json::quoted(credentials.password) + "}";
    POSTERN_TRY_ASSIGN(const HelperAnswer answer, run_helper(helper, "store", input));
    if (answer.status != 0) {
      return Problem{.what = "docker-credential-" + helper + " failed: " + first_line(answer.text)};
    }
    document["auths"][key] = Json::object();
  } else {
    const std::string basic = credentials.user + ":" + credentials.password;
    // SAFETY: text as bytes
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(basic.data());
    document["auths"][key] = {{"auth", postern::text::encode_base64({bytes, basic.size()})}};
  }
  text_ = document.dump(1, '\t');
  return replace_private_file(path_, text_ + "\n");
}

Outcome<bool> CredentialFile::erase(const std::string& key) {
  Json document = Json::parse(text_, nullptr, false);
  if (document.is_discarded() || !document.is_object()) {
    return Problem{.what = "the credential file '" + path_ + "' is not JSON"};
  }
  if (const std::string helper = helper_for(key); !helper.empty()) {
    POSTERN_TRY(run_helper(helper, "erase", key));
  }
  if (!document.contains("auths") || !document["auths"].is_object() ||
      document["auths"].erase(key) == 0) {
    return false;
  }
  text_ = document.dump(1, '\t');
  POSTERN_TRY(replace_private_file(path_, text_ + "\n"));
  return true;
}

std::vector<std::string> CredentialFile::keys() const {
  std::vector<std::string> out;
  const auto document = json::parse(text_);
  const json::Value* auths =
      document ? document->find("auths", json::Value::Kind::kObject) : nullptr;
  if (auths != nullptr) {
    for (const json::Member& member : auths->members) {
      out.push_back(member.name);
    }
  }
  return out;
}

Outcome<std::string> credential_file_path(const std::string& option) {
  if (!option.empty()) {
    return option;
  }
  POSTERN_TRY_ASSIGN(const std::string base, home());
  POSTERN_TRY_ASSIGN(const std::string own, configuration_directory());
  for (const std::string& path :
       {own + "/docker-config.json", base + "/.apptainer/docker-config.json"}) {
    if (::access(path.c_str(), F_OK) == 0) {
      return path;
    }
  }
  return base + "/.docker/config.json";
}

Outcome<std::optional<Credentials>> find_credentials(const CredentialOptions& options,
                                                     const std::string& key,
                                                     const std::string& repository) {
  if (!options.user.empty() || !options.password.empty()) {
    return std::optional(Credentials{.user = options.user, .password = options.password});
  }
  if (const std::string text = environment("DOCKER_AUTH_CONFIG");
      !text.empty() && options.file.empty()) {
    POSTERN_TRY_ASSIGN(const CredentialFile file,
                       CredentialFile::parse(text, "DOCKER_AUTH_CONFIG"));
    POSTERN_TRY_ASSIGN(std::optional<Credentials> found, file.find(key, repository));
    if (found) {
      return found;
    }
  }
  const auto path = credential_file_path(options.file);
  if (!path) {
    return std::optional<Credentials>();  // no home, no file
  }
  const auto file = CredentialFile::open(*path);
  if (!file || (!options.file.empty() && ::access(path->c_str(), R_OK) != 0)) {
    message::warning("Unable to find matching credentials in specified file (" +
                     (file ? *path + ": it is not there" : file.error().what) +
                     "); proceeding with anonymous authentication.");
    return std::optional<Credentials>();
  }
  return file->find(key, repository);
}

}  // namespace postern::net
