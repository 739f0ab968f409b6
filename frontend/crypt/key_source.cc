#include "frontend/crypt/key_source.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <sys/stat.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "frontend/crypt/prompt.h"
#include "frontend/message/exposed.h"
#include "protocol/base/unique_fd.h"

extern char** environ;  // NOLINT: POSIX leaves the declaration to the program

namespace postern::crypt {
namespace {

constexpr std::size_t kMaxPemBytes = 64 * 1024;

Outcome<SecretBytes> read_secret(int fd, const std::string& name, std::size_t max_bytes) {
  SecretBytes secret(max_bytes);
  std::size_t size = 0;
  while (size < secret.size()) {
    const ssize_t got = ::read(fd, secret.bytes().data() + size, secret.size() - size);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return system_problem("reading " + name, errno);
    }
    if (got == 0) {
      secret.truncate(size);
      return secret;
    }
    size += static_cast<std::size_t>(got);
  }
  return Problem{.what = name + " is longer than " + std::to_string(max_bytes - 1) + " bytes"};
}

Outcome<SecretBytes> read_passphrase(int fd, const std::string& name) {
  POSTERN_TRY_ASSIGN(SecretBytes secret, read_secret(fd, name, kMaxPassphraseBytes));
  if (secret.size() > 0 && secret.bytes().back() == std::byte{'\n'}) {
    secret.truncate(secret.size() - 1);
  }
  if (secret.size() == 0) {
    return Problem{.what = name + " holds an empty passphrase"};
  }
  return secret;
}

Outcome<UniqueFd> open_file(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file.valid()) {
    return path_problem("opening " + path, errno, "check the path");
  }
  return file;
}

Outcome<SecretBytes> passphrase_of_file(const std::string& path) {
  POSTERN_TRY_ASSIGN(const UniqueFd file, open_file(path));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) {
    return system_problem("examining " + path, errno);
  }
  if (S_ISREG(status.st_mode) && ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0 ||
                                  (status.st_uid != ::getuid() && status.st_uid != 0))) {
    return Problem{.what = path + " holds a passphrase and is open to others",
                   .cure = "chmod 600 " + path};
  }
  return read_passphrase(file.get(), path);
}

Outcome<SecretBytes> passphrase_of_command(const std::string& command) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return system_problem("starting the key command", errno);
  }
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
  std::string shell = "sh";
  std::string flag = "-c";
  std::string text = command;
  char* const arguments[] = {shell.data(), flag.data(), text.data(), nullptr};
  pid_t pid = -1;
  const int failed = ::posix_spawn(&pid, "/bin/sh", &actions, nullptr, arguments, environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    return system_problem("starting the key command", failed);
  }
  input.reset();
  auto secret = read_passphrase(output.get(), "the output of the key command");
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) {
    return Problem{.what = "the key command failed: " + command};
  }
  return secret;
}

Outcome<SecretBytes> ask(bool confirm) {
  POSTERN_TRY_ASSIGN(SecretBytes secret, prompt_secret("Enter encryption passphrase: "));
  if (secret.size() == 0) {
    return Problem{.what = "an empty passphrase protects nothing"};
  }
  if (confirm) {
    POSTERN_TRY_ASSIGN(const SecretBytes again, prompt_secret("Retype encryption passphrase: "));
    if (again.size() != secret.size() ||
        std::memcmp(again.bytes().data(), secret.bytes().data(), secret.size()) != 0) {
      return Problem{.what = "the two passphrases differ"};
    }
  }
  return secret;
}

SecretBytes copy_of(const char* text) {
  const std::size_t size = std::strlen(text);
  SecretBytes secret(size);
  std::memcpy(secret.bytes().data(), text, size);
  return secret;
}

// POSTERN_ENCRYPTION_X, then APPTAINER_ENCRYPTION_X; empty counts as not given.
const char* environment(const std::string& name) {
  for (const char* prefix : {"POSTERN_ENCRYPTION_", "APPTAINER_ENCRYPTION_"}) {
    const char* value = std::getenv((prefix + name).c_str());
    if (value != nullptr && *value != '\0') {
      return value;
    }
  }
  return nullptr;
}

Outcome<std::optional<KeyMaterial>> pem_file(const std::string& path) {
  POSTERN_TRY_ASSIGN(const UniqueFd file, open_file(path));
  POSTERN_TRY_ASSIGN(SecretBytes pem, read_secret(file.get(), path, kMaxPemBytes));
  message::warn_if_exposed(file.get(), path, std::string_view(pem.chars(), pem.size()));
  return std::optional(KeyMaterial{.pem = true, .bytes = std::move(pem), .name = path});
}

Outcome<std::optional<KeyMaterial>> passphrase(Outcome<SecretBytes> secret) {
  if (!secret) {
    return std::move(secret).error();
  }
  return std::optional(
      KeyMaterial{.pem = false, .bytes = *std::move(secret), .name = "the passphrase"});
}

}  // namespace

Outcome<std::optional<KeyMaterial>> gather_key(const KeyOptions& options,
                                               bool use_environment,
                                               bool confirm) {
  if (!options.pem_path.empty()) {
    return pem_file(options.pem_path);
  }
  if (!options.key_command.empty()) {
    return passphrase(passphrase_of_command(options.key_command));
  }
  if (options.passphrase_fd >= 0) {
    return passphrase(read_passphrase(options.passphrase_fd, "the descriptor of --passphrase-fd"));
  }
  if (!options.passphrase_file.empty()) {
    return passphrase(passphrase_of_file(options.passphrase_file));
  }
  if (options.passphrase) {
    return passphrase(ask(confirm));
  }
  if (!use_environment) {
    return std::optional<KeyMaterial>();
  }
  if (const char* path = environment("PEM_PATH"); path != nullptr) {
    return pem_file(path);
  }
  if (const char* pem = environment("PEM_DATA"); pem != nullptr) {
    return std::optional(
        KeyMaterial{.pem = true, .bytes = copy_of(pem), .name = "ENCRYPTION_PEM_DATA"});
  }
  if (const char* text = environment("PASSPHRASE"); text != nullptr) {
    return passphrase(Outcome<SecretBytes>(copy_of(text)));
  }
  return std::optional<KeyMaterial>();
}

}  // namespace postern::crypt
