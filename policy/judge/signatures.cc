#include "policy/judge/signatures.h"

#include <utility>

#include <openssl/evp.h>

#include "policy/ecl/facts.h"
#include "policy/sif/reader.h"

namespace postern::judge {

struct Signatures::State {
  signature::KeyMaterial keys;
  std::string directory;  // of the rule; empty: none
};

Signatures::Signatures(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}

Signatures::Signatures(Signatures&&) noexcept = default;
Signatures& Signatures::operator=(Signatures&&) noexcept = default;
Signatures::~Signatures() = default;

config::Trusted<Signatures> Signatures::prepare(const std::string& directory,
                                                const ecl::EclConfig& list,
                                                int image) {
  if (list.activated) {
    if (Outcome<Ok> checked = ecl::check_directories(list); !checked) {
      return config::ConfigFault{RefusalCode::kConfigMalformed, std::move(checked).error()};
    }
  }
  auto keys = ecl::load_keyring(directory, ecl::KeyringOwner::kRoot, /*in_child=*/true);
  if (!keys) {
    return config::ConfigFault{RefusalCode::kConfigInsecure, std::move(keys).error()};
  }
  auto state = std::make_unique<State>();
  state->keys = *std::move(keys);
  state->directory = ecl::locate(list, image);
  // OpenSSL reads its configuration when it is first asked for something.
  EVP_MD_free(EVP_MD_fetch(nullptr, "SHA256", nullptr));
  return Signatures(std::move(state));
}

std::vector<int> Signatures::channels() const {
  std::vector<int> sockets;
  for (const signature::PgpKeyring& ring : state_->keys.rings) {
    sockets.push_back(ring.channel());
  }
  return sockets;
}

void Signatures::look_at(int image,
                         const ecl::EclConfig& list,
                         const config::MountTable& mounts,
                         Facts& facts) const {
  ecl::ImageFacts found;
  if (facts.image->kind == ImageKind::kSquashfs) {
    found.kind = ecl::ContainerKind::kSquashfs;
  } else if (const Outcome<sif::Image> parsed = sif::read(image); parsed) {
    ecl::Gathered gathered = ecl::gather(
        *parsed, image, state_->keys,
        {.legacy = list.legacy_insecure, .threads = 1, .progress = {}, .mounts = mounts});
    found = std::move(gathered.facts);
    if (gathered.seal) {
      facts.image->verity = gathered.seal->geometry;
    }
  } else {
    found.problem_code = RefusalCode::kImageMalformed;
    found.problem = parsed.error().what;
  }
  found.directory = state_->directory;
  facts.ecl = ecl::decide_ecl(list, found);
}

}  // namespace postern::judge
