#include "frontend/keys/global_keyring.h"

#include <algorithm>
#include <cerrno>

#include <sys/stat.h>

#include <unistd.h>

#include "frontend/keys/gnupg.h"
#include "frontend/keys/paths.h"
#include "frontend/message/message.h"
#include "frontend/system/replace_file.h"
#include "policy/signature/compile_table.h"
#include "policy/signature/gnupg_ring.h"
#include "policy/signature/pem_key.h"
#include "protocol/exit_codes.h"

namespace postern::keys {
namespace {

constexpr std::string_view kCertificate = "-----BEGIN CERTIFICATE-----";

Outcome<> make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0) {
    return ::chmod(path.c_str(), 0755) == 0 ? Outcome<>(Ok{})
                                            : Outcome<>(system_problem("making " + path, errno));
  }
  if (errno == EEXIST) {
    return Ok{};
  }
  return system_problem("making the directory " + path, errno,
                        errno == EACCES ? "the site's keyring is changed by root" : "");
}

// Empty: there is no such file.
Outcome<std::string> read_if_there(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT) {
    return std::string();
  }
  return read_file(path);
}

// The ring and what it compiles to. Between the two steps, and where this is interrupted, the table
// names another ring: starts that need it are refused until it is compiled again.
Outcome<> write_ring(const std::string& directory, const KeyDirectory& scratch) {
  POSTERN_TRY_ASSIGN(const std::string ring, scratch.export_public("", false));
  POSTERN_TRY_ASSIGN(const signature::Compiled compiled,
                     signature::compile_table(scratch.home(), ring));
  for (const std::string& why : compiled.left_out) {
    message::warning("signatures by key " + why + ": they cannot be checked");
  }
  POSTERN_TRY(system::replace_file(directory + "/gpg.conf",
                                   std::string(signature::keyring_options()), 0644));
  POSTERN_TRY(system::replace_file(directory + "/pubring.gpg", ring, 0644));
  return system::replace_file(directory + "/" + std::string(signature::kTableName),
                              signature::write_table(compiled.table), 0644);
}

// A certificate of the keyring that no root vouches for makes every start under a list a refusal.
Outcome<> check_chain(const std::string& directory, const std::string& certificate) {
  POSTERN_TRY_ASSIGN(const std::string roots, read_if_there(directory + "/roots.pem"));
  if (roots.empty()) {
    return Problem{"a certificate counts if a root certificate vouches for it, and " + directory +
                       "/roots.pem is not there",
                   "put the root certificate that issued it there, and import it again"};
  }
  POSTERN_TRY_ASSIGN(const std::string between, read_if_there(directory + "/intermediates.pem"));
  POSTERN_TRY(signature::key_of_certificate({certificate, between, roots}, "the certificate"));
  return Ok{};
}

Outcome<std::vector<std::string>> import_pem(const std::string& directory,
                                             const std::string& text) {
  std::string name;
  if (text.find(kCertificate) != std::string::npos) {
    POSTERN_TRY_ASSIGN(name, signature::certificate_fingerprint(text));
    POSTERN_TRY(check_chain(directory, text));
  } else {
    POSTERN_TRY_ASSIGN(const signature::PublicKey key,
                       signature::PublicKey::from_pem(text, "the key"));
    name = key.identities().at(0).substr(7);
  }
  POSTERN_TRY(make_directory(directory + "/pem"));
  POSTERN_TRY(system::replace_file(directory + "/pem/" + name + ".pem", text, 0644));
  return std::vector<std::string>{(text.find(kCertificate) != std::string::npos
                                       ? "certificate sha256:"
                                       : "public key sha256:") +
                                  name};
}

}  // namespace

Outcome<std::vector<std::string>> import_global(const std::string& directory,
                                                const std::string& bytes) {
  POSTERN_TRY(make_directory(directory));
  if (bytes.find("PRIVATE KEY") != std::string::npos) {
    return Problem{"a secret key does not belong into the site's keyring"};
  }
  if (bytes.find("-----BEGIN PUBLIC KEY-----") != std::string::npos ||
      bytes.find(kCertificate) != std::string::npos ||
      bytes.find("-----BEGIN RSA PUBLIC KEY-----") != std::string::npos) {
    return import_pem(directory, bytes);
  }
  POSTERN_TRY(signature::check_key_version(bytes));
  POSTERN_TRY_ASSIGN(const std::string ring, read_if_there(directory + "/pubring.gpg"));
  POSTERN_TRY_ASSIGN(KeyDirectory scratch, KeyDirectory::open_temporary());
  if (!ring.empty()) {
    POSTERN_TRY(scratch.import(ring));
  }
  POSTERN_TRY_ASSIGN(const Imported imported, scratch.import(bytes));
  if (imported.secret_read > 0) {
    return Problem{"a secret key does not belong into the site's keyring",
                   "export the public key and import that"};
  }
  POSTERN_TRY(write_ring(directory, scratch));
  std::vector<std::string> out;
  out.reserve(imported.fingerprints.size());
  for (const std::string& fingerprint : imported.fingerprints) {
    out.push_back("key " + fingerprint);
  }
  return out;
}

Outcome<> remove_global(const std::string& directory, const std::string& fingerprint) {
  if (fingerprint.size() == 64 &&
      std::all_of(fingerprint.begin(), fingerprint.end(),
                  [](unsigned char c) { return std::isxdigit(c) != 0; })) {
    const std::string path = directory + "/pem/" + fingerprint + ".pem";
    return ::unlink(path.c_str()) == 0 ? Outcome<>(Ok{})
                                       : Outcome<>(system_problem("removing " + path, errno));
  }
  POSTERN_TRY_ASSIGN(const std::string ring, read_if_there(directory + "/pubring.gpg"));
  POSTERN_TRY_ASSIGN(KeyDirectory scratch, KeyDirectory::open_temporary());
  if (!ring.empty()) {
    POSTERN_TRY(scratch.import(ring));
  }
  POSTERN_TRY(scratch.remove(fingerprint, /*public_part=*/true, /*secret_part=*/false));
  return write_ring(directory, scratch);
}

}  // namespace postern::keys
