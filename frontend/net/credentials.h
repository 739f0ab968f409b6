// User names, passwords and tokens for registries: from the command line, from Docker's and
// Apptainer's credential files, from Docker's credential helpers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::net {

struct Credentials {
  std::string user;
  std::string password;
  std::string identity_token;  // OAuth2 refresh token, instead of a password
  std::string registry_token;  // a bearer token as it is

  [[nodiscard]] bool empty() const {
    return user.empty() && password.empty() && identity_token.empty() && registry_token.empty();
  }
};

// One credential file, in the format of Docker's config.json (config-json(5)). What is not
// understood here is kept when the file is rewritten.
class CredentialFile {
 public:
  // A file that is not there holds nothing. Error: unreadable, or not such a file.
  static Outcome<CredentialFile> open(const std::string& path);
  // The same of a text (DOCKER_AUTH_CONFIG). Pure.
  static Outcome<CredentialFile> parse(std::string_view text, const std::string& path);

  // `key`: Reference::credential_key(); `repository` may have credentials of its own. Asks a
  // credential helper where the file names one.
  [[nodiscard]] Outcome<std::optional<Credentials>> find(const std::string& key,
                                                         const std::string& repository) const;
  // Stores and takes away; the file is replaced at once (mode 0600), or the helper told.
  // `unencrypted` says whether the password stands in the file.
  Outcome<> store(const std::string& key, const Credentials& credentials, bool& unencrypted);
  // False: there was nothing.
  Outcome<bool> erase(const std::string& key);
  [[nodiscard]] std::vector<std::string> keys() const;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  [[nodiscard]] std::string helper_for(const std::string& key) const;

  std::string path_;
  std::string text_;  // JSON
};

// What a registry is told. Asked in this order, as Apptainer does: the command line (for every
// registry), DOCKER_AUTH_CONFIG, one file, nothing.
struct CredentialOptions {
  std::string user;
  std::string password;
  std::string file;  // --authfile
};

Outcome<std::optional<Credentials>> find_credentials(const CredentialOptions& options,
                                                     const std::string& key,
                                                     const std::string& repository);

// The file that is read, and that `registry login` writes, where --authfile names none:
// CONFIGDIR/docker-config.json if it is there, else ~/.docker/config.json.
Outcome<std::string> credential_file_path(const std::string& option);

// ~/.postern, or POSTERN_CONFIGDIR, APPTAINER_CONFIGDIR. Error: no home directory is known.
Outcome<std::string> configuration_directory();

// The value of POSTERN_<name>, APPTAINER_<name> or SINGULARITY_<name>, the first that is not empty.
std::string variable(const std::string& name);

// Replaces a file in one step; makes its directory (0700) if it is missing.
Outcome<> replace_private_file(const std::string& path,
                               std::string_view text,
                               unsigned mode = 0600);

}  // namespace postern::net
