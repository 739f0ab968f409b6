// Public and private keys in PEM files, and certificates: the key material of DSSE signatures.
//
// Kinds: Ed25519; ECDSA on P-256 with SHA-256; RSA of 2048 to 16384 bits, PKCS#1 v1.5 with SHA-256.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

struct evp_pkey_st;

namespace postern::signature {

class PublicKey {
 public:
  // The first block of a PEM text: PUBLIC KEY (SubjectPublicKeyInfo) or RSA PUBLIC KEY (PKCS#1).
  // `name` is the file's, for messages.
  static Outcome<PublicKey> from_pem(std::string_view pem, std::string_view name);
  // Takes over one reference to `key`.
  static Outcome<PublicKey> from_key(evp_pkey_st* key, std::string_view name);

  [[nodiscard]] bool verify(std::string_view message,
                            std::span<const std::uint8_t> signature) const;

  // "SHA256:…": what ssh-keygen -l prints, and the keyid in DSSE envelopes.
  [[nodiscard]] const std::string& ssh_id() const noexcept { return ssh_id_; }

  // "sha256:<64 hex>" of the SubjectPublicKeyInfo, and of the certificate it came from. What an
  // execution control list names.
  [[nodiscard]] const std::vector<std::string>& identities() const noexcept { return identities_; }

  // File name or certificate subject.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  void add_identity(std::string identity) { identities_.push_back(std::move(identity)); }

 private:
  PublicKey() = default;

  std::shared_ptr<evp_pkey_st> key_;
  std::string ssh_id_;
  std::vector<std::string> identities_;
  std::string name_;
};

class PrivateKey {
 public:
  // Asked for a passphrase where the file is encrypted; none: give up.
  using Passphrase = std::function<std::optional<std::string>()>;

  // PKCS#8 (plain or encrypted), RSA PRIVATE KEY, EC PRIVATE KEY, also with Proc-Type encryption.
  static Outcome<PrivateKey> from_pem(std::string_view pem,
                                      std::string_view name,
                                      const Passphrase& ask);

  Outcome<std::vector<std::uint8_t>> sign(std::string_view message) const;

  [[nodiscard]] const PublicKey& public_key() const noexcept { return *public_; }

 private:
  PrivateKey() = default;

  std::shared_ptr<evp_pkey_st> key_;
  std::optional<PublicKey> public_;
};

struct CertificateFiles {
  std::string leaf;           // PEM text; the first certificate is the signer's
  std::string intermediates;  // PEM text, may be empty
  std::string roots;          // PEM text; empty: the system's trusted roots
};

// Asks whether each certificate of a chain is still good, leaf first, root last (OCSP); an error
// refuses. DER texts.
using RevocationCheck = std::function<Outcome<Ok>(const std::vector<std::string>& chain)>;

// The leaf's key, after its chain has been verified: up to a root, valid now, allowed to sign code.
Outcome<PublicKey> key_of_certificate(const CertificateFiles& files,
                                      std::string_view name,
                                      const RevocationCheck& revocation = {});

// Whether the first certificate is past its last day, or before its first. Nothing is verified.
Outcome<bool> certificate_is_out_of_date(std::string_view pem);

// 64 hex digits: the SHA-256 of the first certificate (DER), what `openssl x509 -fingerprint`
// prints. Nothing is verified.
Outcome<std::string> certificate_fingerprint(std::string_view pem);

}  // namespace postern::signature
