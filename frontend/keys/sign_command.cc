// postern sign and postern seal.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <optional>

#include <unistd.h>

#include "frontend/keys/command.h"
#include "frontend/keys/gnupg.h"
#include "frontend/keys/paths.h"
#include "frontend/keys/prompt.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "policy/seal/add.h"
#include "policy/sif/writer.h"
#include "policy/signature/clear_sign.h"
#include "policy/signature/dsse.h"
#include "policy/signature/sign.h"
#include "policy/signature/verify.h"

namespace postern::keys {
namespace {

using option::Kind;

// clang-format off
constexpr std::array kSignOptions = std::to_array<option::Option>({
    {"all",      'a', "",         Kind::kFlag, 1, "",     ""},
    {"group-id", 'g', "",         Kind::kText, 1, "N",    "sign this group of objects alone"},
    {"groupid",  0,   "",         Kind::kText, 1, "N",    ""},
    {"id",       0,   "",         Kind::kText, 1, "N",    ""},
    {"key",      0,   "SIGN_KEY", Kind::kText, 1, "FILE", "private key in a PEM file (Ed25519, P-256, RSA) instead of an OpenPGP key"},
    {"keyidx",   'k', "",         Kind::kText, 1, "N",    "number of the OpenPGP key in 'key list --secret'"},
    {"keysdir",  'd', "",         Kind::kText, 1, "DIR",  "directory of the user's keyring"},
    {"no-seal",  0,   "",         Kind::kFlag, 1, "",     "add no seal: reads are not checked while the image runs"},
    {"sif-id",   'i', "",         Kind::kText, 1, "N",    "sign this object alone"},
});
constexpr std::array kSealOptions = std::to_array<option::Option>({
    {"sif-id",   'i', "",         Kind::kText, 1, "N",    "seal this partition instead of the root file system"},
});
// clang-format on

constexpr Usage kSignUsage{"sign",
                           "[options] IMAGE",
                           "Add digital signature(s) to an image, and a seal",
                           kSignOptions,
                           1,
                           1,
                           1};
constexpr Usage kSealUsage{"seal",
                           "[options] IMAGE",
                           "Add a hash tree that binds the bytes of an image to its signatures",
                           kSealOptions,
                           1,
                           1,
                           1};

// ---- who signs

struct Signed {
  std::string text;                                                // the signature object's data
  std::array<std::uint8_t, sif::kFingerprintBytes> fingerprint{};  // zeros for DSSE
};

class Signer {
 public:
  virtual ~Signer() = default;
  virtual Outcome<Signed> sign(const std::string& metadata) = 0;
};

class PemSigner final : public Signer {
 public:
  explicit PemSigner(signature::PrivateKey key) : key_(std::move(key)) {}

  Outcome<Signed> sign(const std::string& metadata) override {
    Signed out;
    POSTERN_TRY_ASSIGN(out.text, signature::sign_envelope(metadata, key_));
    return out;
  }

 private:
  signature::PrivateKey key_;
};

class PgpSigner final : public Signer {
 public:
  PgpSigner(KeyDirectory directory, KeyInfo key)
      : directory_(std::move(directory)), key_(std::move(key)) {}

  Outcome<Signed> sign(const std::string& metadata) override {
    const PassphraseSource ask = [this](const std::string& /*hint*/,
                                        bool again) -> std::optional<std::string> {
      if (again || !passphrase_) {
        if (attempts_++ >= 3) {
          return std::nullopt;
        }
        auto answer = ask_secret((again ? "Wrong passphrase. Enter" : "Enter") +
                                 (" the passphrase of " + printable(key_.user)) + ": ");
        if (!answer) {
          return std::nullopt;
        }
        passphrase_ = *std::move(answer);
      }
      return passphrase_;
    };
    POSTERN_TRY_ASSIGN(std::string text, directory_.clear_sign(key_.fingerprint, metadata, ask));
    // What GnuPG made must be what every reader of ours accepts, over exactly this text.
    POSTERN_TRY_ASSIGN(const signature::ClearSigned message, signature::parse_clear_signed(text));
    POSTERN_TRY(signature::parse_signature_packet(message));
    if (message.text != metadata) {
      return Problem{"GnuPG signed another text than it was given"};
    }
    Signed out;
    out.text = std::move(text);
    for (std::size_t i = 0; i < out.fingerprint.size(); ++i) {
      std::from_chars(&key_.fingerprint[2 * i], &key_.fingerprint[2 * i] + 2, out.fingerprint[i],
                      16);
    }
    return out;
  }

 private:
  KeyDirectory directory_;
  KeyInfo key_;
  std::optional<std::string> passphrase_;
  int attempts_ = 0;
};

Outcome<std::size_t> index_of(std::string_view text, std::size_t count) {
  std::size_t index = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || stop != text.data() + text.size() || index >= count) {
    return Problem{
        "index out of range: '" + std::string(text) + "' is not the number of a secret key",
        "'postern key list --secret' shows the numbers"};
  }
  return index;
}

Outcome<std::unique_ptr<Signer>> choose_signer(const option::Arguments& arguments) {
  if (arguments.given("key")) {
    const std::string path(arguments.text("key"));
    POSTERN_TRY_ASSIGN(const std::string pem, read_private_key(path));
    const auto ask = [&]() -> std::optional<std::string> {
      auto answer = ask_secret("Enter the passphrase of " + path + ": ");
      return answer ? std::optional(*std::move(answer)) : std::nullopt;
    };
    POSTERN_TRY_ASSIGN(signature::PrivateKey key, signature::PrivateKey::from_pem(pem, path, ask));
    return std::unique_ptr<Signer>(std::make_unique<PemSigner>(std::move(key)));
  }
  POSTERN_TRY_ASSIGN(const std::string path, local_keyring(std::string(arguments.text("keysdir"))));
  POSTERN_TRY_ASSIGN(KeyDirectory directory, KeyDirectory::open_local(path));
  POSTERN_TRY_ASSIGN(const std::vector<KeyInfo> keys, directory.list(true));
  if (keys.empty()) {
    return Problem{"there is no secret key in " + path,
                   "make one with 'postern key newpair', import one, or sign with --key FILE"};
  }
  std::size_t chosen = 0;
  if (arguments.given("keyidx")) {
    POSTERN_TRY_ASSIGN(chosen, index_of(arguments.text("keyidx"), keys.size()));
  } else if (keys.size() > 1) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::fputs((std::to_string(i) + ") " + printable(keys[i].user) +
                  "\n   Fingerprint: " + keys[i].fingerprint + "\n")
                     .c_str(),
                 stderr);
    }
    POSTERN_TRY_ASSIGN(const std::string answer, ask("Enter # of private key to use : "));
    POSTERN_TRY_ASSIGN(chosen, index_of(answer, keys.size()));
  }
  if (!keys[chosen].usable) {
    return Problem{"key " + keys[chosen].fingerprint + " is expired or revoked"};
  }
  return std::unique_ptr<Signer>(std::make_unique<PgpSigner>(std::move(directory), keys[chosen]));
}

// ---- what is signed

struct Subject {
  std::uint32_t group = 0;
  std::vector<std::uint32_t> objects;  // ascending
};

Outcome<std::optional<std::uint32_t>> number_option(const option::Arguments& arguments,
                                                    const char* name,
                                                    const char* other) {
  for (const char* option : {name, other}) {
    if (arguments.given(option)) {
      POSTERN_TRY_ASSIGN(const auto numbers, numbers_of({std::string(arguments.text(option))},
                                                        "a number of a group or an object"));
      return std::optional(numbers[0]);
    }
  }
  return std::optional<std::uint32_t>();
}

Subject whole_group(const sif::Image& image, std::uint32_t group) {
  Subject out{group, {}};
  for (const sif::Descriptor* object : image.group(group)) {
    out.objects.push_back(object->id);
  }
  std::sort(out.objects.begin(), out.objects.end());
  return out;
}

// Signatures name objects by their numbers, so that each must be the number of one object.
Outcome<> check_numbers(const sif::Image& image) {
  for (const sif::Descriptor& object : image.descriptors()) {
    if (!image.object(object.id)) {
      const std::string number = std::to_string(object.id);
      return Problem{"the image cannot be signed: " +
                         (object.id == 0 ? "an object has the number 0"
                                         : "several objects have the number " + number),
                     "make a new image from it with 'postern build'"};
    }
  }
  return Ok{};
}

Outcome<std::vector<Subject>> subjects_of(const sif::Image& image,
                                          std::optional<std::uint32_t> group,
                                          std::optional<std::uint32_t> object) {
  POSTERN_TRY(check_numbers(image));
  std::vector<Subject> out;
  if (object) {
    const auto found = image.object(*object);
    if (!found) {
      return Problem{"integrity: object not found: " + found.error().what, found.error().cure};
    }
    const sif::Descriptor* descriptor = *found;
    if (descriptor->group == 0 || (group && *group != descriptor->group)) {
      return Problem{"object " + std::to_string(*object) + " is not in " +
                     (group ? "group " + std::to_string(*group) : std::string("a group"))};
    }
    out.push_back({descriptor->group, {*object}});
  } else if (group) {
    out.push_back(whole_group(image, *group));
    if (out[0].objects.empty()) {
      return Problem{"integrity: group not found: there is no group " + std::to_string(*group),
                     "`postern sif list` shows the groups"};
    }
  } else {
    for (const std::uint32_t number : image.groups()) {
      out.push_back(whole_group(image, number));
    }
    if (out.empty()) {
      return Problem{"the image has no groups of objects, so there is nothing to sign"};
    }
  }
  return out;
}

// ---- sealing

bool has_signature(const sif::Image& image, std::uint32_t group) {
  const auto& all = image.descriptors();
  return std::any_of(all.begin(), all.end(), [&](const sif::Descriptor& d) {
    const auto is_member = [&] {
      const std::vector<const sif::Descriptor*> members = image.group(group);
      return std::any_of(members.begin(), members.end(),
                         [&](const sif::Descriptor* member) { return member->id == d.link; });
    };
    return d.type == sif::DataType::kSignature && (d.link_is_group ? d.link == group : is_member());
  });
}

Outcome<> seal_partition(sif::Writer& writer, const sif::Descriptor& partition) {
  message::Progress bar("Sealing",
                        static_cast<std::uint64_t>(std::max<std::int64_t>(partition.size, 0)));
  return seal::add_seal(writer, partition, [&](std::uint64_t bytes) { bar.advance(bytes); });
}

// The part of sign that seals: what cannot be sealed is signed without, with a word about it.
Outcome<> seal_before_signing(sif::Writer& writer, std::optional<std::uint32_t> group) {
  POSTERN_TRY_ASSIGN(const sif::Image image, writer.image());
  const auto root = image.primary_partition();
  if (!root || (*root)->group == 0 || (group && *group != (*root)->group)) {
    return Ok{};
  }
  Snapshot bytes(writer.fd());
  POSTERN_TRY_ASSIGN(const std::optional<VerityGeometry> present,
                     seal::find_seal(image, bytes, **root));
  if (present) {
    return Ok{};
  }
  if (has_signature(image, (*root)->group)) {
    message::info(
        "The image is signed already, so it is not sealed: its signatures would not cover the "
        "seal; to seal it, delete them first: postern sif del");
    return Ok{};
  }
  if ((*root)->size % static_cast<std::int64_t>(seal::kBlockBytes) != 0) {
    message::warning(
        "The root file system is not a whole number of 4096-byte blocks, so the image is signed "
        "without a seal");
    return Ok{};
  }
  return seal_partition(writer, **root);
}

Outcome<> sign_image(const option::Arguments& arguments) {
  const std::string& path = arguments.positional()[0];
  POSTERN_TRY_ASSIGN(const auto group, number_option(arguments, "group-id", "groupid"));
  POSTERN_TRY_ASSIGN(const auto object, number_option(arguments, "sif-id", "id"));
  if (arguments.given("all")) {
    message::warning("--all has no effect: every group is signed unless one is named");
  }
  POSTERN_TRY_ASSIGN(sif::Writer writer, sif::Writer::open(path));
  POSTERN_TRY_ASSIGN(const sif::Image before, writer.image());
  POSTERN_TRY(subjects_of(before, group, object));  // before anybody is asked for anything
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Signer> signer, choose_signer(arguments));
  if (!arguments.given("no-seal") && !object) {
    POSTERN_TRY(seal_before_signing(writer, group));
  }
  POSTERN_TRY_ASSIGN(const sif::Image image, writer.image());
  POSTERN_TRY_ASSIGN(const std::vector<Subject> subjects, subjects_of(image, group, object));
  std::vector<std::pair<std::uint32_t, Signed>> signatures;
  for (const Subject& subject : subjects) {
    std::uint64_t total = 0;
    for (const std::uint32_t id : subject.objects) {
      total += static_cast<std::uint64_t>(std::max<std::int64_t>((*image.object(id))->size, 0));
    }
    std::optional<message::Progress> bar(std::in_place, "Hashing", total);
    Snapshot bytes(writer.fd());
    POSTERN_TRY_ASSIGN(const std::string metadata,
                       signature::metadata_of(image, bytes, subject.group, subject.objects,
                                              [&](std::uint64_t bytes) { bar->advance(bytes); }));
    bar.reset();
    POSTERN_TRY_ASSIGN(Signed made, signer->sign(metadata));
    signatures.emplace_back(subject.group, std::move(made));
  }
  for (const auto& [number, made] : signatures) {
    POSTERN_TRY(writer.add(signature::signature_object(number, made.fingerprint), made.text));
  }
  POSTERN_TRY(writer.finish());
  message::info("Signature created and applied to image '" + path + "'");
  return Ok{};
}

// With Apptainer's lines, which scripts look for.
Outcome<> sign(const option::Arguments& arguments) {
  message::info("Signing image with " +
                (arguments.given("key")
                     ? "key material from '" + std::string(arguments.text("key")) + "'"
                     : std::string("PGP key material")));
  auto done = sign_image(arguments);
  if (done) {
    return done;
  }
  Problem problem = std::move(done).error();
  problem.what.insert(0, "Failed to sign container: ");
  return problem;
}

Outcome<> seal(const option::Arguments& arguments) {
  const std::string& path = arguments.positional()[0];
  POSTERN_TRY_ASSIGN(const auto id, number_option(arguments, "sif-id", "sif-id"));
  POSTERN_TRY_ASSIGN(sif::Writer writer, sif::Writer::open(path));
  POSTERN_TRY_ASSIGN(const sif::Image image, writer.image());
  POSTERN_TRY_ASSIGN(const sif::Descriptor* partition,
                     id ? image.object(*id) : image.primary_partition());
  if (partition->partition() == nullptr) {
    return Problem{"object " + std::to_string(partition->id) + " is not a partition"};
  }
  Snapshot bytes(writer.fd());
  POSTERN_TRY_ASSIGN(const std::optional<VerityGeometry> present,
                     seal::find_seal(image, bytes, *partition));
  if (present) {
    return Problem{path + " is sealed already"};
  }
  if (has_signature(image, partition->group)) {
    return Problem{path + " is signed, and its signatures would not cover a seal",
                   "delete the signatures with 'postern sif del', seal, and sign again"};
  }
  POSTERN_TRY(seal_partition(writer, *partition));
  POSTERN_TRY(writer.finish());
  message::info("Sealed " + path + "; sign it, so that the seal counts");
  return Ok{};
}

int run(const Usage& usage,
        std::span<const std::string> words,
        Outcome<> (*command)(const option::Arguments&)) {
  const auto arguments = parse_command(usage, words);
  if (!arguments) {
    return arguments.error();
  }
  auto done = command(*arguments);
  return done ? 0 : fail(std::move(done).error());
}

}  // namespace

int sign_command(std::span<const std::string> words) {
  return run(kSignUsage, words, sign);
}

int seal_command(std::span<const std::string> words) {
  return run(kSealUsage, words, seal);
}

}  // namespace postern::keys
