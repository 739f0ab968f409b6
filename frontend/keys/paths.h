// Where keys and policy are.
#pragma once

#include <string>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::keys {

// The directory of the site's configuration: that of POSTERN_CONFIG_FILE (which bin/postern exports
// for --config), else the installed one.
std::string configuration_directory();
std::string global_keyring();  // its "keyring"

// The user's keyring: `option` (--keysdir), POSTERN_KEYSDIR, APPTAINER_KEYSDIR,
// SINGULARITY_KEYSDIR, SINGULARITY_SYPGPDIR, else keys in POSTERN_CONFIGDIR or APPTAINER_CONFIGDIR,
// else ~/.postern/keys. Error: no home directory.
Outcome<std::string> local_keyring(const std::string& option);

// ~/.postern/keys; "" without a home directory.
std::string default_keyring();

// Apptainer's keyring of the user, from which a new keyring of ours is filled; may not exist.
std::string apptainer_keyring();

// GnuPG obeys the gpg.conf and gpg-agent.conf of its directory, which may name programs to run and
// files to write. Error: another user than the caller and root can have put them into `path`. A
// directory that is not there is nobody's.
Outcome<> check_key_directory(const std::string& path);

// A directory of mode 0700 that is gone, with everything in it, when this is.
class TemporaryDirectory {
 public:
  static Outcome<TemporaryDirectory> create();

  TemporaryDirectory(TemporaryDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}

  TemporaryDirectory& operator=(TemporaryDirectory&&) = delete;
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  explicit TemporaryDirectory(std::string path) : path_(std::move(path)) {}

  std::string path_;
};

// A whole file; at most `max_bytes`. "-" is standard input.
Outcome<std::string> read_file(const std::string& path,
                               std::size_t max_bytes = std::size_t{64} << 20);

// The same of a PEM file; warns if it holds a private key that others can read.
Outcome<std::string> read_private_key(const std::string& path);

// An environment variable, empty where it is unset.
std::string environment(const char* name);

}  // namespace postern::keys
