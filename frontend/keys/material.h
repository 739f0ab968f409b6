// The key material that `verify` checks against.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontend/keys/gnupg.h"
#include "frontend/keys/hkp.h"
#include "policy/problem.h"
#include "policy/signature/verify.h"

namespace postern::keys {

struct MaterialOptions {
  std::string key;          // PEM public key, file name; empty = none
  std::string certificate;  // … X.509
  std::string intermediates;
  std::string roots;
  bool ocsp = false;
  bool use_servers = true;
  std::string server;  // empty: the default one
};

// Site's and user's keyring, PEM keys and certificate, and key servers for what those do not have.
// The rings of fetched keys live as long as this.
class Material {
 public:
  static Outcome<std::unique_ptr<Material>> load(const MaterialOptions& options);

  [[nodiscard]] const signature::KeyMaterial& keys() const noexcept { return keys_; }

 private:
  Material() = default;
  Outcome<> add_local(const std::string& local);
  std::unique_ptr<signature::PgpRing> fetch(const std::string& key_id);

  MaterialOptions options_;
  signature::KeyMaterial keys_;
  std::vector<KeyDirectory> fetched_;
  std::vector<ServerOptions> servers_;  // filled when the first is asked
};

}  // namespace postern::keys
