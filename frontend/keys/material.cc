#include "frontend/keys/material.h"

#include <unistd.h>

#include "frontend/keys/hkp.h"
#include "frontend/keys/ocsp.h"
#include "frontend/keys/paths.h"
#include "frontend/message/message.h"
#include "policy/signature/gnupg_ring.h"

namespace postern::keys {
namespace {

constexpr std::size_t kMaxPemBytes = std::size_t{1} << 20;
constexpr unsigned kLookupSeconds = 5;

Outcome<std::string> optional_file(const std::string& path) {
  return path.empty() ? Outcome<std::string>(std::string()) : read_file(path, kMaxPemBytes);
}

Outcome<> add_pem(const MaterialOptions& options, signature::KeyMaterial& keys) {
  if (!options.key.empty()) {
    POSTERN_TRY_ASSIGN(const std::string text, read_file(options.key, kMaxPemBytes));
    POSTERN_TRY_ASSIGN(signature::PublicKey key, signature::PublicKey::from_pem(text, options.key));
    keys.keys.push_back(std::move(key));
  }
  if (!options.certificate.empty()) {
    signature::CertificateFiles files;
    POSTERN_TRY_ASSIGN(files.leaf, read_file(options.certificate, kMaxPemBytes));
    POSTERN_TRY_ASSIGN(files.intermediates, optional_file(options.intermediates));
    POSTERN_TRY_ASSIGN(files.roots, optional_file(options.roots));
    const signature::RevocationCheck revocation =
        options.ocsp ? signature::RevocationCheck(check_ocsp) : nullptr;
    POSTERN_TRY_ASSIGN(signature::PublicKey key,
                       signature::key_of_certificate(files, options.certificate, revocation));
    keys.keys.push_back(std::move(key));
  }
  return Ok{};
}

Outcome<> add_ring(const std::string& path,
                   signature::KeyOrigin origin,
                   signature::KeyMaterial& keys) {
  POSTERN_TRY_ASSIGN(auto ring, signature::GnupgRing::open(path, origin));
  keys.rings.push_back(std::move(ring));
  return Ok{};
}

}  // namespace

Outcome<std::unique_ptr<Material>> Material::load(const MaterialOptions& options) {
  std::unique_ptr<Material> out(new Material());
  out->options_ = options;
  POSTERN_TRY(add_pem(options, out->keys_));
  POSTERN_TRY(add_ring(global_keyring(), signature::KeyOrigin::kGlobal, out->keys_));
  POSTERN_TRY_ASSIGN(const std::string local, local_keyring(""));
  if (const auto own = check_key_directory(local); !own) {
    message::warning(own.error().what + ": its keys are not used");
  } else {
    POSTERN_TRY(out->add_local(local));
  }
  if (options.use_servers) {
    out->keys_.fetch = [self = out.get()](const std::string& id) { return self->fetch(id); };
  }
  return out;
}

Outcome<> Material::add_local(const std::string& local) {
  // A keyring that is not there yet is made only if Apptainer's has keys to fill it with.
  if (::access(local.c_str(), F_OK) == 0 ||
      ::access((apptainer_keyring() + "/pgp-public").c_str(), F_OK) == 0) {
    if (const auto made = KeyDirectory::open_local(local); !made) {
      message::warning(made.error().what);
    }
  }
  return add_ring(local, signature::KeyOrigin::kLocal, keys_);
}

std::unique_ptr<signature::PgpRing> Material::fetch(const std::string& key_id) {
  const auto failed = [&](const Problem& problem) {
    message::warning("key " + key_id + ": " + problem.what);
    return nullptr;
  };
  if (servers_.empty()) {
    if (!options_.server.empty()) {
      servers_.push_back({.url = options_.server});
    } else if (auto configured = configured_servers(); configured) {
      servers_ = *std::move(configured);
    } else {
      return failed(configured.error());
    }
  }
  Outcome<std::string> bytes = Problem{};
  for (ServerOptions& server : servers_) {  // in their order, until one has it
    server.timeout_seconds = kLookupSeconds;
    message::verbose("Asking " + server.url + " for key " + key_id);
    bytes = fetch_key(server, "0x" + key_id);
    if (bytes) {
      break;
    }
  }
  if (!bytes) {
    return failed(bytes.error());
  }
  auto directory = KeyDirectory::open_temporary();
  if (!directory) {
    return failed(directory.error());
  }
  if (const auto imported = directory->import(*bytes); !imported) {
    return failed(imported.error());
  }
  auto ring = signature::GnupgRing::open(directory->path(), signature::KeyOrigin::kRemote);
  if (!ring) {
    return failed(ring.error());
  }
  fetched_.push_back(*std::move(directory));
  return *std::move(ring);
}

}  // namespace postern::keys
