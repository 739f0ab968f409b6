// postern verify: do the image's signatures hold, who made them, and does its seal fit?
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <mutex>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/keys/command.h"
#include "frontend/keys/hkp.h"
#include "frontend/keys/material.h"
#include "frontend/keys/paths.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "policy/json/strict.h"
#include "policy/seal/tree.h"
#include "policy/signature/verify.h"

namespace postern::keys {
namespace {

using option::Kind;
using signature::Failure;
using signature::SignatureReport;
using signature::VerifyReport;

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"all",                       'a', "",                    Kind::kFlag, 1, "",     "with --legacy-insecure: every object, not the root file system alone"},
    {"certificate",               0,   "VERIFY_CERTIFICATE",  Kind::kText, 1, "FILE", "certificate of the signer (PEM); it must be for code signing"},
    {"certificate-intermediates", 0,   "VERIFY_INTERMEDIATES", Kind::kText, 1, "FILE", "certificates between the signer's and a root (PEM)"},
    {"certificate-roots",         0,   "VERIFY_ROOTS",        Kind::kText, 1, "FILE", "root certificates (PEM), instead of the system's"},
    {"group-id",                  'g', "",                    Kind::kList, 1, "N",    "verify this group of objects"},
    {"groupid",                   0,   "",                    Kind::kList, 1, "N",    ""},
    {"id",                        0,   "",                    Kind::kList, 1, "N",    ""},
    {"json",                      'j', "",                    Kind::kFlag, 1, "",     "print JSON"},
    {"key",                       0,   "VERIFY_KEY",          Kind::kText, 1, "FILE", "public key of the signer (PEM)"},
    {"legacy-insecure",           0,   "",                    Kind::kFlag, 1, "",     "verify signatures of Singularity before 3.6, which cover the data alone"},
    {"local",                     'l', "LOCAL_VERIFY",        Kind::kFlag, 1, "",     "use no key server"},
    {"ocsp-verify",               0,   "VERIFY_OCSP",         Kind::kFlag, 1, "",     "ask whether the certificates have been revoked"},
    {"sif-id",                    'i', "",                    Kind::kList, 1, "N",    "verify this object"},
    {"url",                       'u', "URL",                 Kind::kText, 1, "URL",  "key server (default: those of the remote, else https://keys.openpgp.org)"},
});
// clang-format on

constexpr Usage kUsage{
    "verify", "[options] IMAGE", "Verify digital signature(s) within an image", kOptions, 1, 1, 1};

struct Target {
  UniqueFd fd;
  std::unique_ptr<Snapshot> bytes;
  std::optional<sif::Image> image;
};

Outcome<Target> open_target(const std::string& path) {
  Target out;
  out.fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!out.fd.valid()) {
    return path_problem("opening " + path, errno, "check the path");
  }
  out.bytes = std::make_unique<Snapshot>(out.fd.get());
  auto image = sif::read(*out.bytes);
  if (!image) {
    return Problem{path + ": " + image.error().what, image.error().cure};
  }
  out.image = *std::move(image);
  return out;
}

// ---- what is printed

// As wide as Apptainer's, which scripts cut by columns.
std::string tag_of(const SignatureReport& signature) {
  static constexpr std::array kOrigins = {"[GLOBAL]", "[LOCAL]", "[REMOTE]"};
  static_assert(static_cast<int>(signature::KeyOrigin::kGlobal) == 0 &&
                static_cast<int>(signature::KeyOrigin::kLocal) == 1 &&
                static_cast<int>(signature::KeyOrigin::kRemote) == 2);
  std::string tag = signature.form == signature::Form::kDsse
                        ? "[PEM]"
                        : kOrigins[static_cast<std::size_t>(signature.origin)];
  tag.resize(19, ' ');
  return tag;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) {
    return c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c;
  });
  return text;
}

std::string cell(std::string text, std::size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text + "|";
}

const sif::Descriptor* descriptor_of(const sif::Image& image, std::uint32_t id) {
  const auto found = image.object(id);
  return found ? *found : nullptr;
}

std::string row_of(const sif::Descriptor& object) {
  const std::string link = object.link == 0
                               ? "NONE"
                               : std::to_string(object.link) + (object.link_is_group ? " (G)" : "");
  return cell(std::to_string(object.id), 4) +
         cell(object.group == 0 ? "NONE" : std::to_string(object.group), 8) + cell(link, 8) +
         std::string(sif::name_of(object.type)) + "\n";
}

// What failed, beginning with the words that Apptainer has for it.
std::string reason_of(const VerifyReport& report) {
  const std::string_view words = report.failure == Failure::kGroupNotFound    ? "group not found"
                                 : report.failure == Failure::kObjectNotFound ? "object not found"
                                 : report.failure == Failure::kNoSignature ? "signature not found"
                                                                           : "";
  return words.empty() ? report.problem.what
                       : "integrity: " + std::string(words) + ": " + report.problem.what;
}

// Behind a failure nothing was compared: only what is before it is listed as verified.
void print_text(const sif::Image& image, const VerifyReport& report) {
  std::string out;
  const bool object_failed = report.failure == Failure::kObject;
  for (const SignatureReport& signature : report.signatures) {
    if (!signature.valid) {
      continue;
    }
    const bool pgp = signature.form == signature::Form::kOpenPgp;
    out += tag_of(signature) + "Signing entity: " + printable(signature.name) + "\n";
    out += tag_of(signature) +
           "Fingerprint: " + (pgp ? upper(signature.fingerprint) : signature.fingerprint) + "\n";
    out +=
        "Objects verified:\nID  |GROUP   |LINK    "
        "|TYPE\n------------------------------------------------\n";
    for (const std::uint32_t id : signature.objects) {
      if (report.failure != Failure::kNone && (!object_failed || id == report.failed_object)) {
        break;
      }
      if (const sif::Descriptor* object = descriptor_of(image, id)) {
        out += row_of(*object);
      }
    }
  }
  if (report.failure != Failure::kNone) {
    out += "\nError encountered during signature verification: " + reason_of(report) + "\n";
  }
  std::fputs(out.c_str(), stdout);
}

std::string json_entry(const sif::Image& image,
                       std::uint32_t id,
                       const SignatureReport& signature,
                       bool data_good) {
  const sif::Descriptor* object = descriptor_of(image, id);
  const std::string type(object != nullptr ? sif::name_of(object->type) : "Unknown");
  const auto boolean = [](bool value) { return std::string(value ? "true" : "false"); };
  const bool known = !signature.fingerprint.empty();
  const bool local = known && signature.origin != signature::KeyOrigin::kRemote;
  return "    {\n      \"Signer\": {\n        \"Partition\": " + json::quoted(type) +
         ",\n        \"Name\": " + json::quoted(known ? signature.name : "unknown") +
         ",\n        \"Fingerprint\": " + json::quoted(signature.fingerprint) +
         ",\n        \"KeyLocal\": " + boolean(local) +
         ",\n        \"KeyCheck\": " + boolean(known) +
         ",\n        \"DataCheck\": " + boolean(data_good) + "\n      }\n    }";
}

void print_json(const sif::Image& image, const VerifyReport& report) {
  std::string entries;
  const auto add = [&](const std::string& entry) {
    entries += (entries.empty() ? "" : ",\n") + entry;
  };
  const bool object_failed = report.failure == Failure::kObject;
  for (const SignatureReport& signature : report.signatures) {
    for (const std::uint32_t id : signature.objects) {
      if (object_failed && id == report.failed_object) {
        add(json_entry(image, id, signature, false));
        break;  // what comes after it was not compared
      }
      if (signature.valid && (object_failed || report.failure == Failure::kNone)) {
        add(json_entry(image, id, signature, true));
      }
    }
  }
  const std::string list = entries.empty() ? "null" : "[\n" + entries + "\n  ]";
  std::fputs(("{\n  \"Signatures\": " + std::to_string(report.signatures.size()) +
              ",\n  \"SignerKeys\": " + list + "\n}\n")
                 .c_str(),
             stdout);
}

// ---- the seal

struct SealWork {
  sif::Extent partition;
  VerityGeometry geometry;
};

// The seal of the root partition, if there is one that its group's verification covers.
Outcome<std::optional<SealWork>> seal_of(const Target& target) {
  const auto root = target.image->primary_partition();
  if (!root) {
    return std::optional<SealWork>();
  }
  POSTERN_TRY_ASSIGN(const std::optional<VerityGeometry> found,
                     seal::find_seal(*target.image, *target.bytes, **root));
  if (!found) {
    return std::optional<SealWork>();
  }
  POSTERN_TRY_ASSIGN(const sif::Extent extent, target.image->extent_of(**root));
  return std::optional(SealWork{extent, *found});
}

// Signature digests and hash tree are two passes over the same bytes. They run side by side.
class Run {
 public:
  Run(const Target& target, const signature::KeyMaterial& keys, signature::VerifyOptions options)
      : target_(target), keys_(keys), options_(std::move(options)) {}

  VerifyReport run(const std::optional<SealWork>& seal, Outcome<>& seal_result) {
    options_.announce = [&](std::uint64_t bytes) {
      bar_.emplace("Verifying",
                   bytes + (seal ? seal->geometry.data_blocks * seal::kBlockBytes : 0));
      if (seal) {
        start_seal(*seal, seal_result);
      }
    };
    options_.progress = [this](std::uint64_t bytes) { advance(bytes); };
    VerifyReport report = signature::verify(*target_.image, *target_.bytes, options_, keys_);
    worker_ = {};  // joins
    bar_.reset();
    return report;
  }

 private:
  void start_seal(const SealWork& seal, Outcome<>& result) {
    worker_ = std::jthread([this, &seal, &result] {
      const seal::TreePlace place{
          .data_offset = seal.partition.offset,
          .data_blocks = seal.geometry.data_blocks,
          .tree_offset = seal.geometry.tree_offset,
          .salt = std::span(seal.geometry.salt).first(seal.geometry.salt_bytes)};
      // One processor is left to the other pass.
      const unsigned threads = std::max(2U, std::thread::hardware_concurrency()) - 1;
      result = seal::check_tree(
          target_.fd.get(), place, seal.geometry.root_hash,
          [this](std::uint64_t bytes) { advance(bytes); }, threads);
    });
  }

  void advance(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (bar_) {
      bar_->advance(bytes);
    }
  }

  const Target& target_;
  const signature::KeyMaterial& keys_;
  signature::VerifyOptions options_;
  std::mutex mutex_;
  std::optional<message::Progress> bar_;
  std::jthread worker_;
};

Outcome<signature::VerifyOptions> options_of(const option::Arguments& arguments) {
  signature::VerifyOptions out;
  for (const char* name : {"group-id", "groupid"}) {
    POSTERN_TRY_ASSIGN(const auto numbers, numbers_of(arguments.values(name), "a group"));
    out.groups.insert(out.groups.end(), numbers.begin(), numbers.end());
  }
  for (const char* name : {"sif-id", "id"}) {
    POSTERN_TRY_ASSIGN(const auto numbers, numbers_of(arguments.values(name), "an object's id"));
    out.objects.insert(out.objects.end(), numbers.begin(), numbers.end());
  }
  out.legacy = arguments.given("legacy-insecure");
  out.legacy_all = out.legacy && arguments.given("all");
  return out;
}

MaterialOptions material_of(const option::Arguments& arguments) {
  MaterialOptions out;
  out.key = arguments.text("key");
  out.certificate = arguments.text("certificate");
  out.intermediates = arguments.text("certificate-intermediates");
  out.roots = arguments.text("certificate-roots");
  out.ocsp = arguments.given("ocsp-verify");
  out.use_servers = !arguments.given("local");
  out.server = arguments.text("url");
  return out;
}

void announce(const MaterialOptions& material) {
  std::string with = "PGP key material";
  if (!material.certificate.empty()) {
    with = "key material from certificate '" + std::string(material.certificate) + "'";
  } else if (!material.key.empty()) {
    with = "key material from '" + std::string(material.key) + "'";
  }
  message::info("Verifying image with " + with);
}

Outcome<> verify(const option::Arguments& arguments) {
  const std::string& path = arguments.positional()[0];
  announce(material_of(arguments));
  POSTERN_TRY_ASSIGN(signature::VerifyOptions options, options_of(arguments));
  POSTERN_TRY_ASSIGN(const Target target, open_target(path));
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Material> material,
                     Material::load(material_of(arguments)));
  const bool whole = options.groups.empty() && options.objects.empty() && !options.legacy;
  std::optional<SealWork> seal;
  Outcome<> seal_result = Ok{};
  if (whole) {
    if (auto found = seal_of(target)) {
      seal = *found;
    } else {
      seal_result = std::move(found).error();
    }
  }
  const VerifyReport report =
      Run(target, material->keys(), std::move(options)).run(seal, seal_result);
  if (arguments.given("json")) {
    print_json(*target.image, report);
  } else {
    print_text(*target.image, report);
  }
  if (report.failure != Failure::kNone) {
    return Problem{"Failed to verify container: " + path + ": " + reason_of(report),
                   report.problem.cure};
  }
  if (!seal_result) {
    return Problem{"Failed to verify container: " + path + ": " + seal_result.error().what};
  }
  if (seal) {
    message::info("The seal of the root file system fits: reads are checked while the image runs");
  }
  message::info("Verified signature(s) from image '" + path + "'");
  return Ok{};
}

}  // namespace

int verify_command(std::span<const std::string> words) {
  const auto arguments = parse_command(kUsage, words);
  if (!arguments) {
    return arguments.error();
  }
  auto done = verify(*arguments);
  return done ? 0 : fail(std::move(done).error());
}

}  // namespace postern::keys
