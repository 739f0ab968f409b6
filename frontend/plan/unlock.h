// The volume key of an encrypted image, fetched by postern-crypt: a start of a plain image loads
// none of the libraries that this takes, and the secret never passes through this process.
#pragma once

#include <optional>
#include <string>

#include "frontend/plan/launch_plan.h"
#include "policy/problem.h"

namespace postern::plan {

// The caller's key options, as given; the environment is postern-crypt's to read.
struct KeyWish {
  bool ask_passphrase = false;
  std::string pem_path;
  std::string passphrase_file;
  std::optional<int> passphrase_fd;
  std::string key_command;
  const UniqueFd* gocryptfs = nullptr;  // of a gocryptfs container: the text of its configuration
};

// Fills `server.key` (sealed memfd) and `server.crypt`. postern-crypt has said on standard error
// why where it fails; the Problem then has no words.
// From here on this process cannot be looked into, until drop_keys().
Outcome<Ok> unlock(ImageServer& server, const KeyWish& wish);

// The server has its key: this process needs it no more.
void drop_keys(LaunchPlan& plan) noexcept;

}  // namespace postern::plan
