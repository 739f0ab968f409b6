#include "policy/judge/volume_key.h"

#include <array>
#include <span>

#include <sys/stat.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "policy/crypt/luks2.h"

namespace postern::judge {
namespace {

constexpr std::size_t kKeyBytes = 64;

bool is_sealed_key(int key) {
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
  struct stat status{};
  const int seals = ::fcntl(key, F_GET_SEALS);
  return seals >= 0 && (seals & kSeals) == kSeals && ::fstat(key, &status) == 0 &&
         status.st_size == static_cast<off_t>(kKeyBytes);
}

bool fits(int key, const crypt::KeyDigest& digest) {
  std::array<std::byte, kKeyBytes> bytes;
  const bool answer =
      is_sealed_key(key) &&
      ::pread(key, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()) &&
      crypt::key_fits(digest, bytes);
  ::explicit_bzero(bytes.data(), bytes.size());
  return answer;
}

}  // namespace

void add_crypt(Snapshot& image, int key, ImageFacts& facts) {
  const Outcome<crypt::Luks2> header =
      crypt::read_luks2(image, {.offset = facts.offset, .bytes = facts.bytes});
  if (!header) {
    facts.problem = RefusalCode::kCryptHeader;
  } else if (!fits(key, header->digest)) {
    facts.problem = RefusalCode::kCryptKey;
  } else {
    facts.crypt = header->geometry;
  }
}

}  // namespace postern::judge
