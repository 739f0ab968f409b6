#include "policy/judge/signatures.h"

#include <utility>

#include <openssl/evp.h>

#include "policy/ecl/facts.h"
#include "policy/sif/reader.h"

namespace postern::judge {
namespace {

// What one processor hashes well within the helper's deadline, from a disk of 150 MB/s.
constexpr std::uint64_t kMaxHashedBytes = std::uint64_t{2} << 30;

}  // namespace

config::Trusted<Signatures> Signatures::prepare(const std::string& directory,
                                                const ecl::EclConfig& list,
                                                int image) {
  if (list.activated) {
    if (Outcome<Ok> checked = ecl::check_directories(list); !checked) {
      return config::ConfigFault{RefusalCode::kConfigMalformed, std::move(checked).error()};
    }
  }
  Signatures out;
  POSTERN_TRY_ASSIGN(out.keys_, ecl::load_keyring(directory, ecl::KeyringOwner::kRoot));
  out.directory_ = ecl::locate(list, image);
  // OpenSSL reads its configuration when it is first asked for something.
  EVP_MD_free(EVP_MD_fetch(nullptr, "SHA256", nullptr));
  return out;
}

void Signatures::look_at(Snapshot& image, const ecl::EclConfig& list, Facts& facts) const {
  // Without a list a signature only lets the kernel mount the image. To hash all of it for that, at
  // each start, costs more than a server in user space: only a seal is worth it.
  if (!list.activated && !facts.image->verity) {
    return;
  }
  ecl::ImageFacts found;
  if (facts.image->kind == ImageKind::kSquashfs) {
    found.kind = ecl::ContainerKind::kSquashfs;
  } else if (const Outcome<sif::Image> parsed = sif::read(image); parsed) {
    ecl::Gathered gathered = ecl::gather(*parsed, image, keys_,
                                         {.legacy = list.legacy_insecure,
                                          .threads = 1,
                                          .max_hashed_bytes = kMaxHashedBytes,
                                          .progress = {},
                                          .unwritable = facts.image->unwritable});
    found = std::move(gathered.facts);
    if (gathered.seal) {
      facts.image->verity = gathered.seal->geometry;
    }
  } else {
    found.problem_code = RefusalCode::kImageMalformed;
    found.problem = parsed.error().what;
  }
  found.directory = directory_;
  facts.ecl = ecl::decide_ecl(list, found);
}

}  // namespace postern::judge
