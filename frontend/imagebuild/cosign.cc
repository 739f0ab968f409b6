#include "frontend/imagebuild/cosign.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/net/reference.h"
#include "policy/json/strict.h"
#include "policy/text/base64.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

using Kind = json::Value::Kind;

constexpr std::size_t kMaxKey = std::size_t{64} << 10;
constexpr std::size_t kMaxPayload = std::size_t{64} << 10;
constexpr std::size_t kMaxSignatures = 100;
constexpr std::string_view kSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json";

Problem unsigned_image(const net::Registry& registry, const std::string& why) {
  return Problem{.what = registry.reference().name() + " is not signed by this key: " + why,
                 .cure = "ask its publisher for a signature, or for the right key"};
}

}  // namespace

Outcome<signature::PublicKey> read_cosign_key(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  std::string text(kMaxKey, '\0');
  const ssize_t got = fd.valid() ? ::read(fd.get(), text.data(), text.size()) : -1;
  if (got < 0) {
    return system_problem("opening the key '" + path + "'", errno);
  }
  text.resize(static_cast<std::size_t>(got));
  return signature::PublicKey::from_pem(text, path);
}

Outcome<std::vector<CosignSignature>> parse_cosign_manifest(std::string_view text) {
  POSTERN_TRY_ASSIGN(const json::Value document, json::parse(text, {.depth = 16}));
  std::vector<CosignSignature> out;
  const json::Value* layers = document.find("layers", Kind::kArray);
  for (const json::Value& layer : layers != nullptr ? layers->items : std::vector<json::Value>{}) {
    const json::Value* type = layer.find("mediaType", Kind::kString);
    const json::Value* digest = layer.find("digest", Kind::kString);
    const json::Value* size = layer.find("size", Kind::kUnsigned);
    const json::Value* notes = layer.find("annotations", Kind::kObject);
    const json::Value* signature =
        notes != nullptr ? notes->find("dev.cosignproject.cosign/signature", Kind::kString)
                         : nullptr;
    if (type == nullptr || type->text != kSimpleSigning || digest == nullptr ||
        !net::is_digest(digest->text) || size == nullptr || size->number > kMaxPayload ||
        signature == nullptr || out.size() == kMaxSignatures) {
      continue;
    }
    out.push_back({.payload = digest->text, .size = size->number, .signature = signature->text});
  }
  return out;
}

Outcome<> check_cosign_payload(std::string_view text, const std::string& digest) {
  POSTERN_TRY_ASSIGN(const json::Value document, json::parse(text, {.bytes = kMaxPayload}));
  const json::Value* critical = document.find("critical", Kind::kObject);
  const json::Value* image = critical != nullptr ? critical->find("image", Kind::kObject) : nullptr;
  const json::Value* type = critical != nullptr ? critical->find("type", Kind::kString) : nullptr;
  const json::Value* named =
      image != nullptr ? image->find("docker-manifest-digest", Kind::kString) : nullptr;
  if (type == nullptr || type->text != "cosign container image signature" || named == nullptr) {
    return Problem{.what = "what is signed is not a container image"};
  }
  if (named->text != digest) {
    return Problem{.what = "the signature is of another image, " + named->text.substr(0, 80)};
  }
  return Ok{};
}

Outcome<> verify_cosign(net::Registry& registry,
                        const std::string& digest,
                        const signature::PublicKey& key) {
  auto manifest = registry.manifest("sha256-" + digest.substr(7) + ".sig");
  if (!manifest) {
    return unsigned_image(registry, manifest.error().what);
  }
  POSTERN_TRY_ASSIGN(const std::vector<CosignSignature> signatures,
                     parse_cosign_manifest(manifest->bytes));
  std::string why = "the registry holds no signature for it";
  for (const CosignSignature& one : signatures) {
    POSTERN_TRY_ASSIGN(const std::string payload, registry.document(one.payload, one.size));
    const auto bytes = text::decode_base64(one.signature);
    if (!bytes || !key.verify(payload, *bytes)) {
      why = "the signature does not hold";
      continue;
    }
    // Only what the key vouches for is read.
    auto about = check_cosign_payload(payload, digest);
    if (about) {
      return Ok{};
    }
    why = about.error().what;
  }
  return unsigned_image(registry, why);
}

}  // namespace postern::imagebuild
