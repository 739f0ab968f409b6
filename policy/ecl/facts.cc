#include "policy/ecl/facts.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <map>
#include <memory>

#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/config/read_file.h"
#include "policy/signature/pgp_table.h"
#include "policy/text/hex.h"
#include "protocol/base/unique_fd.h"

namespace postern::ecl {
namespace {

using config::ConfigFault;
using config::Trusted;
using signature::Failure;
using signature::KeyMaterial;
using signature::VerifyReport;

ConfigFault unusable(Problem problem) {
  return ConfigFault{RefusalCode::kKeyring, std::move(problem)};
}

// Reads files of the keyring under the owner's rule.
class KeyringReader {
 public:
  KeyringReader(std::string directory, KeyringOwner owner)
      : directory_(std::move(directory)),
        owner_(owner),
        root_(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)) {}

  [[nodiscard]] std::string path(const std::string& name) const { return directory_ + "/" + name; }

  // None where it does not exist.
  Trusted<std::optional<std::string>> read(const std::string& name) const {
    if (owner_ == KeyringOwner::kWhoever) {
      auto text = config::read_file(path(name));
      return text ? Trusted<std::optional<std::string>>(*std::move(text))
                  : unusable(std::move(text).error());
    }
    auto text = read_of_root(name);
    if (text) {
      return std::optional(*std::move(text));
    }
    if (text.error().code == RefusalCode::kConfigMissing &&
        ::access(path(name).c_str(), F_OK) != 0 && errno == ENOENT) {
      return std::optional<std::string>();
    }
    return std::move(text).error();
  }

  Trusted<std::vector<std::string>> pem_files() const {
    std::vector<std::string> names;
    const std::unique_ptr<DIR, int (*)(DIR*)> list(::opendir(path("pem").c_str()), ::closedir);
    if (list == nullptr) {
      return errno == ENOENT ? Trusted<std::vector<std::string>>(std::move(names))
                             : unusable(system_problem("opening " + path("pem"), errno));
    }
    while (const dirent* entry =
               ::readdir(list.get())) {  // NOLINT(concurrency-mt-unsafe): our own DIR
      const std::string name = static_cast<const char*>(entry->d_name);
      if (name.ends_with(".pem") && !name.starts_with('.')) {
        names.push_back("pem/" + name);
      }
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  // Each directory is walked to once.
  Trusted<std::string> read_of_root(const std::string& name) const {
    const std::size_t last = name.rfind('/') + 1;  // 0 where there is none
    const std::string part = path(name.substr(0, last));
    auto known = directories_.find(part);
    if (known == directories_.end()) {
      POSTERN_TRY_ASSIGN(config::TrustedDirectory found,
                         config::TrustedDirectory::open(root_.get(), part));
      known = directories_.emplace(part, std::move(found)).first;
    }
    return known->second.read(name.substr(last));
  }

  std::string directory_;
  KeyringOwner owner_;
  UniqueFd root_;
  mutable std::map<std::string, config::TrustedDirectory> directories_;
};

// None: a certificate that is out of date, which must not shut out the signers that are not.
Trusted<std::optional<signature::PublicKey>> load_pem(const KeyringReader& reader,
                                                      const std::string& name) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, reader.read(name));
  if (!text) {
    return unusable({"keyring file " + name + " has gone"});
  }
  if (text->find("-----BEGIN CERTIFICATE-----") == std::string::npos) {
    auto key = signature::PublicKey::from_pem(*text, name);
    return key ? Trusted<std::optional<signature::PublicKey>>(std::optional(*std::move(key)))
               : unusable(std::move(key).error());
  }
  auto out_of_date = signature::certificate_is_out_of_date(*text);
  if (!out_of_date) {
    return unusable(std::move(out_of_date).error());
  }
  if (*out_of_date) {
    return std::optional<signature::PublicKey>();
  }
  POSTERN_TRY_ASSIGN(const std::optional<std::string> roots, reader.read("roots.pem"));
  POSTERN_TRY_ASSIGN(const std::optional<std::string> between, reader.read("intermediates.pem"));
  if (!roots) {
    return unusable({reader.path(name) + " is a certificate, and the keyring has no roots.pem",
                     "put the root certificate that issued it into " + reader.path("roots.pem") +
                         ", or remove it: postern key remove --global " +
                         std::filesystem::path(name).stem().string()});
  }
  auto key = signature::key_of_certificate({*text, between.value_or(""), *roots}, name);
  return key ? Trusted<std::optional<signature::PublicKey>>(std::optional(*std::move(key)))
             : unusable(std::move(key).error());
}

// The compiled OpenPGP keys; none where the keyring has none. Whatever GnuPG changed there since
// they were compiled denies: a key that was revoked or removed would live on in the table.
Trusted<std::optional<signature::PgpTable>> load_table(const KeyringReader& reader) {
  const std::string ring_path = reader.path("pubring.gpg");
  const std::string compile = "compile it again: postern key import --global " + ring_path;
  struct stat keybox{};
  if (::lstat(reader.path("pubring.kbx").c_str(), &keybox) == 0) {
    return unusable({reader.path("pubring.kbx") +
                         " was written by GnuPG, and is not what signatures are checked against",
                     "take its keys over and delete it: gpg --homedir " + reader.path("") +
                         " --export > keys.gpg; rm " + reader.path("pubring.kbx") +
                         "; postern key import --global keys.gpg"});
  }
  POSTERN_TRY_ASSIGN(const std::optional<std::string> ring, reader.read("pubring.gpg"));
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text,
                     reader.read(std::string(signature::kTableName)));
  if (!ring && !text) {
    return std::optional<signature::PgpTable>();
  }
  if (!ring) {
    return unusable({ring_path + " is missing, from which " +
                         reader.path(std::string(signature::kTableName)) + " was made",
                     "import the site's keys again: postern key import --global FILE"});
  }
  if (!text) {
    return unusable({ring_path + " has not been compiled", compile});
  }
  auto table = signature::parse_table(*text);
  if (!table) {
    Problem problem = std::move(table).error();
    problem.cure = compile;
    return unusable(std::move(problem));
  }
  const signature::Digest digest = signature::digest_of(signature::Algorithm::kSha256, *ring);
  if (text::to_hex(std::span(digest.bytes).first(32)) != table->ring_sha256) {
    return unusable({ring_path + " was changed after it was compiled", compile});
  }
  return std::optional(*std::move(table));
}

RefusalCode refusal_of(Failure failure) {
  switch (failure) {
    case Failure::kNone:
      return RefusalCode::kNone;
    case Failure::kNoGroups:
    case Failure::kNoSignature:
      return RefusalCode::kEclUnsigned;
    case Failure::kNoRootPartition:
      return RefusalCode::kNoRootPartition;
    case Failure::kTooLarge:
      return RefusalCode::kUnsealed;
    case Failure::kInvalidNumber:
    case Failure::kGroupNotFound:
    case Failure::kObjectNotFound:
    case Failure::kAmbiguousObject:
    case Failure::kUngroupedObject:
    case Failure::kTooManySignatures:
    case Failure::kUnknownForm:
    case Failure::kNoPgpMaterial:
    case Failure::kNoPemMaterial:
    case Failure::kHashType:
    case Failure::kNotValid:
    case Failure::kFingerprint:
    case Failure::kNotSigned:
    case Failure::kSignedMissing:
    case Failure::kHeader:
    case Failure::kDescriptor:
    case Failure::kObject:
    case Failure::kUnreadable:
    case Failure::kEngine:
      return RefusalCode::kEclSignature;
  }
  return RefusalCode::kEclSignature;
}

bool covers(const VerifyReport& report, std::uint32_t id) {
  return std::any_of(
      report.signatures.begin(), report.signatures.end(), [&](const auto& signature) {
        return signature.valid && std::find(signature.objects.begin(), signature.objects.end(),
                                            id) != signature.objects.end();
      });
}

}  // namespace

Trusted<KeyMaterial> load_keyring(const std::string& directory, KeyringOwner owner) {
  const KeyringReader reader(directory, owner);
  KeyMaterial out;
  POSTERN_TRY_ASSIGN(std::optional<signature::PgpTable> table, load_table(reader));
  out.rings.push_back(
      std::make_unique<signature::TableRing>(table ? *std::move(table) : signature::PgpTable()));
  POSTERN_TRY_ASSIGN(const std::vector<std::string> names, reader.pem_files());
  for (const std::string& name : names) {
    POSTERN_TRY_ASSIGN(std::optional<signature::PublicKey> key, load_pem(reader, name));
    if (key) {
      out.keys.push_back(*std::move(key));
    } else {
      out.left_out.push_back(name);
    }
  }
  return out;
}

Gathered gather(const sif::Image& image,
                Snapshot& bytes,
                const KeyMaterial& keys,
                const GatherOptions& options) {
  Gathered out;
  out.left_out = keys.left_out;
  ImageFacts& facts = out.facts;
  const auto refuse = [&](RefusalCode code, std::string why) {
    facts.problem_code = code;
    facts.problem = std::move(why);
    return out;
  };
  const auto root = image.primary_partition();
  if (!root) {
    return refuse(RefusalCode::kNoRootPartition, root.error().what);
  }
  signature::VerifyOptions verify;
  verify.forgive_invalid = true;
  verify.legacy = options.legacy;
  verify.threads = options.threads;
  verify.progress = options.progress;
  verify.max_hashed_bytes = options.max_hashed_bytes;
  std::optional<seal::Found> seal;
  if (!options
           .legacy) {  // old signatures cover no descriptors, so a seal would be bound to nothing
    auto found = seal::find(image, bytes, **root);
    if (!found) {
      return refuse(RefusalCode::kSeal, found.error().what);
    }
    seal = *found;
  }
  if (seal) {
    verify.skip_data = {(*root)->id, seal->tree_object};
  }
  VerifyReport report = signature::verify(image, bytes, verify, keys);
  facts.valid = report.valid_all;
  facts.claimed = report.claimed_any;
  facts.unvalidated = report.unvalidated;
  facts.any_valid = covers(report, (*root)->id);
  if (report.failure != Failure::kNone) {
    facts.any_valid = false;
    out.signatures = std::move(report.signatures);
    return refuse(refusal_of(report.failure), report.problem.what);
  }
  if (seal && covers(report, seal->seal_object)) {
    facts.binding = Binding::kSealed;
    out.seal = seal;
  } else if (!seal && options.unwritable) {  // with a seal the data was not hashed above
    facts.binding = Binding::kUnwritable;
  }
  out.signatures = std::move(report.signatures);
  return out;
}

std::string locate(const EclConfig& config, int fd) {
  std::array<char, PATH_MAX> buffer;
  const ssize_t length =
      ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), buffer.data(), buffer.size());
  struct stat image{};
  if (length <= 0 || static_cast<std::size_t>(length) >= buffer.size() ||
      ::fstat(fd, &image) != 0) {
    return {};
  }
  const std::string_view path(buffer.data(), static_cast<std::size_t>(length));
  const std::string name(path.substr(path.rfind('/') + 1));
  for (const Group& group : config.groups) {
    struct stat there{};
    const std::string candidate =
        group.directory + (group.directory.ends_with('/') ? "" : "/") + name;
    if (!group.directory.empty() && !name.empty() && ::lstat(candidate.c_str(), &there) == 0 &&
        there.st_dev == image.st_dev && there.st_ino == image.st_ino) {
      return group.directory;
    }
  }
  return {};
}

}  // namespace postern::ecl
