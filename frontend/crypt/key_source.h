// Where the secret that opens an encrypted image comes from.
#pragma once

#include <optional>
#include <string>

#include "policy/crypt/luks_header.h"
#include "policy/problem.h"

namespace postern::crypt {

// As given on the command line; empty or −1 = not given.
struct KeyOptions {
  bool passphrase = false;      // ask on the terminal
  std::string passphrase_file;  // must be the caller's and unreadable for others
  int passphrase_fd = -1;
  std::string pem_path;     // RSA: public key to encrypt, private key to run
  std::string key_command;  // its output is the passphrase (front ends of Vault, TPM …)
};

struct KeyMaterial {
  bool pem = false;  // `bytes` is a PEM file; else it is the passphrase
  SecretBytes bytes;
  std::string name;  // where it came from, for messages
};

// The first that is given wins: --pem-path, --key-command, --passphrase-fd, --passphrase-file,
// --passphrase; then, where `use_environment`, the variables ENCRYPTION_PEM_PATH,
// ENCRYPTION_PEM_DATA, ENCRYPTION_PASSPHRASE with prefix POSTERN_ or APPTAINER_. `confirm` asks
// twice. No value: nothing was given. One line end after the secret of a file, a descriptor or a
// command is not part of it; the environment's value is taken byte for byte.
Outcome<std::optional<KeyMaterial>> gather_key(const KeyOptions& options,
                                               bool use_environment,
                                               bool confirm);

}  // namespace postern::crypt
