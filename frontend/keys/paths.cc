#include "frontend/keys/paths.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <pwd.h>
#include <unistd.h>

#include "frontend/message/exposed.h"
#include "frontend/system/safe_directory.h"

namespace postern::keys {
namespace {

Outcome<std::string> home() {
  if (std::string path = environment("HOME"); path.starts_with('/')) {
    return path;
  }
  std::vector<char> buffer(std::size_t{256} << 10);
  struct passwd entry{};
  struct passwd* found = nullptr;
  if (::getpwuid_r(::getuid(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return Problem{"no home directory is known for this user",
                   "set HOME, or name a directory with --keysdir"};
  }
  return std::string(found->pw_dir);
}

}  // namespace

std::string environment(const char* name) {
  const char* value = ::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody changes it
  return value != nullptr ? value : "";
}

std::string configuration_directory() {
  const std::string file = environment("POSTERN_CONFIG_FILE");
  const std::size_t slash = file.rfind('/');
  return slash == std::string::npos || slash == 0 ? POSTERN_CONFDIR : file.substr(0, slash);
}

std::string global_keyring() {
  return configuration_directory() + "/keyring";
}

Outcome<std::string> local_keyring(const std::string& option) {
  if (!option.empty()) {
    return option;
  }
  for (const char* name :
       {"POSTERN_KEYSDIR", "APPTAINER_KEYSDIR", "SINGULARITY_KEYSDIR", "SINGULARITY_SYPGPDIR"}) {
    if (std::string path = environment(name); !path.empty()) {
      return path;
    }
  }
  for (const char* name : {"POSTERN_CONFIGDIR", "APPTAINER_CONFIGDIR"}) {
    if (const std::string path = environment(name); !path.empty()) {
      return path + "/keys";
    }
  }
  POSTERN_TRY(home());  // says what is wrong
  return default_keyring();
}

std::string default_keyring() {
  const auto base = home();
  return base ? *base + "/.postern/keys" : "";
}

std::string apptainer_keyring() {
  const auto base = home();
  return base ? *base + "/.apptainer/keys" : "";
}

Outcome<TemporaryDirectory> TemporaryDirectory::create() {
  std::string path = environment("TMPDIR");
  // GnuPG puts sockets beside its keys, and a socket's name has at most 107 bytes (unix(7)).
  constexpr std::size_t kLongest = 60;
  const bool usable =
      path.starts_with('/') && path.size() < kLongest && system::check_safe_directory(path);
  path = (usable ? path : "/tmp") + "/postern-keys-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) {
    return system_problem("making a temporary directory", errno);
  }
  return TemporaryDirectory(path);
}

TemporaryDirectory::~TemporaryDirectory() {
  if (!path_.empty()) {
    std::error_code ignored;  // what cannot be removed stays, in a directory of our own
    std::filesystem::remove_all(path_, ignored);
  }
}

Outcome<> check_key_directory(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    return errno == ENOENT ? system::check_safe_to_make(path)
                           : Outcome<>(system_problem("looking at " + path, errno));
  }
  const bool foreign = status.st_uid != ::geteuid() && status.st_uid != 0;
  const bool shared = (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  if (foreign || shared || !system::check_safe_directory(path)) {
    return Problem{.what = "the key directory " + path +
                           (shared && !foreign ? " can be written by others"
                                               : " is in the hands of another user") +
                           ", whose gpg.conf GnuPG would obey",
                   .cure = shared && !foreign ? "chmod go-w " + path
                                              : "name a directory of your own with --keysdir"};
  }
  return {};
}

Outcome<std::string> read_file(const std::string& path, std::size_t max_bytes) {
  UniqueFd opened;
  int fd = STDIN_FILENO;
  if (path != "-") {
    opened = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
    fd = opened.get();
  }
  if (fd < 0) {
    return path_problem("opening " + path, errno, "check the path");
  }
  std::string out;
  std::array<char, 65536> piece;
  while (true) {
    const ssize_t got = ::read(fd, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return system_problem("reading " + path, errno);
    }
    if (got == 0) {
      return out;
    }
    out.append(piece.data(), static_cast<std::size_t>(got));
    if (out.size() > max_bytes) {
      return Problem{path + " is larger than " + std::to_string(max_bytes) + " bytes"};
    }
  }
}

Outcome<std::string> read_private_key(const std::string& path) {
  constexpr std::size_t kMaxPemBytes = std::size_t{1} << 20;
  POSTERN_TRY_ASSIGN(std::string text, read_file(path, kMaxPemBytes));
  const UniqueFd file(path == "-" ? -1 : ::open(path.c_str(), O_PATH | O_CLOEXEC));
  message::warn_if_exposed(path == "-" ? STDIN_FILENO : file.get(), path, text);
  return text;
}

}  // namespace postern::keys
