#include "policy/signature/digest.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <thread>

#include <openssl/evp.h>
#include <unistd.h>

#include "policy/sif/bytes.h"

namespace postern::signature {
namespace {

struct AlgorithmRow {
  Algorithm algorithm;
  std::string_view name;
  std::size_t bytes;
  const EVP_MD* (*md)();
};

constexpr std::array kAlgorithms = std::to_array<AlgorithmRow>({
    {Algorithm::kSha224, "sha224", 28, EVP_sha224},
    {Algorithm::kSha256, "sha256", 32, EVP_sha256},
    {Algorithm::kSha384, "sha384", 48, EVP_sha384},
    {Algorithm::kSha512, "sha512", 64, EVP_sha512},
    {Algorithm::kSha512_224, "sha512_224", 28, EVP_sha512_224},
    {Algorithm::kSha512_256, "sha512_256", 32, EVP_sha512_256},
});

const AlgorithmRow& row(Algorithm algorithm) noexcept {
  const auto index = static_cast<std::size_t>(algorithm);
  POSTERN_CHECK(index < kAlgorithms.size() && kAlgorithms[index].algorithm == algorithm);
  return kAlgorithms[index];
}

// A running digest. OpenSSL fails here only when it is out of memory or misconfigured (a FIPS
// provider without the algorithm): then there is no answer that would be right.
class Hasher {
 public:
  explicit Hasher(Algorithm algorithm) : algorithm_(algorithm), context_(EVP_MD_CTX_new()) {
    POSTERN_CHECK(context_ != nullptr &&
                  EVP_DigestInit_ex(context_.get(), row(algorithm).md(), nullptr) == 1);
  }

  void add(const void* data, std::size_t bytes) {
    POSTERN_CHECK(EVP_DigestUpdate(context_.get(), data, bytes) == 1);
  }

  Digest finish() {
    Digest out;
    out.algorithm = algorithm_;
    unsigned written = 0;
    POSTERN_CHECK(EVP_DigestFinal_ex(context_.get(), out.bytes.data(), &written) == 1 &&
                  written == row(algorithm_).bytes);
    return out;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };

  Algorithm algorithm_;
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

int hex_value(char c) noexcept {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  if (c >= 'a' && c <= 'f') {
    return c - 'a' + 10;
  }
  if (c >= 'A' && c <= 'F') {
    return c - 'A' + 10;
  }
  return -1;
}

// What the threads of hash_file share.
struct Work {
  int fd;
  const std::vector<HashJob>& jobs;
  const HashProgress& progress;
  std::vector<Digest> digests;
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> failed = false;
  std::mutex mutex;  // guards progress and problem
  Problem problem;

  void fail(Problem why) {
    const std::lock_guard lock(mutex);
    if (!failed.exchange(true)) {
      problem = std::move(why);
    }
  }

  void report(std::uint64_t bytes) {
    if (progress) {
      const std::lock_guard lock(mutex);
      progress(bytes);
    }
  }

  bool run(Hasher& hasher, HashJob::Run extent, std::vector<std::uint8_t>& buffer) {
    while (extent.bytes > 0 && !failed) {
      const auto want =
          static_cast<std::size_t>(std::min<std::uint64_t>(extent.bytes, buffer.size()));
      const ssize_t got = ::pread(fd, buffer.data(), want, static_cast<off_t>(extent.offset));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got <= 0) {
        fail(got < 0 ? system_problem("reading the image", errno)
                     : Problem{"the image became shorter while it was read"});
        return false;
      }
      hasher.add(buffer.data(), static_cast<std::size_t>(got));
      extent.offset += static_cast<std::uint64_t>(got);
      extent.bytes -= static_cast<std::uint64_t>(got);
      report(static_cast<std::uint64_t>(got));
    }
    return !failed;
  }

  void loop() {
    // Fits the second-level cache, so that the hash reads what pread has just written there.
    std::vector<std::uint8_t> buffer(std::size_t{256} << 10);
    for (std::size_t i = next++; i < jobs.size() && !failed; i = next++) {
      Hasher hasher(jobs[i].algorithm);
      for (const HashJob::Run& extent : jobs[i].runs) {
        if (!run(hasher, extent, buffer)) {
          return;
        }
      }
      digests[i] = hasher.finish();
    }
  }
};

}  // namespace

std::size_t digest_bytes(Algorithm algorithm) noexcept {
  return row(algorithm).bytes;
}

std::string_view name_of(Algorithm algorithm) noexcept {
  return row(algorithm).name;
}

Outcome<Digest> parse_hex_digest(Algorithm algorithm, std::string_view hex) {
  Digest out;
  out.algorithm = algorithm;
  if (hex.size() != 2 * row(algorithm).bytes) {
    return Problem{"a " + std::string(row(algorithm).name) + " digest must have " +
                   std::to_string(2 * row(algorithm).bytes) + " hexadecimal digits, not " +
                   std::to_string(hex.size())};
  }
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const int high = hex_value(hex[i]);
    const int low = hex_value(hex[i + 1]);
    if (high < 0 || low < 0) {
      return Problem{"a digest holds a character that is not hexadecimal"};
    }
    out.bytes[i / 2] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return out;
}

Outcome<Digest> parse_digest(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return Problem{"a digest without an algorithm"};
  }
  for (const AlgorithmRow& entry : kAlgorithms) {
    if (entry.name == text.substr(0, colon)) {
      return parse_hex_digest(entry.algorithm, text.substr(colon + 1));
    }
  }
  return Problem{"digest algorithm '" +
                 std::string(text.substr(0, std::min<std::size_t>(colon, 32))) + "' is not known"};
}

std::string hex_text(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes.size());
  for (const std::uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

std::string digest_text(const Digest& digest) {
  return std::string(name_of(digest.algorithm)) + ":" +
         hex_text(std::span(digest.bytes).first(digest_bytes(digest.algorithm)));
}

Digest digest_of(Algorithm algorithm, std::span<const std::uint8_t> bytes) {
  Hasher hasher(algorithm);
  hasher.add(bytes.data(), bytes.size());
  return hasher.finish();
}

Digest digest_of(Algorithm algorithm, std::string_view bytes) {
  Hasher hasher(algorithm);
  hasher.add(bytes.data(), bytes.size());
  return hasher.finish();
}

Digest header_digest(Algorithm algorithm, std::span<const std::uint8_t, sif::kHeaderBytes> header) {
  Hasher hasher(algorithm);
  hasher.add(header.data(), sif::kArchitectureAt);  // launch script, magic, version
  hasher.add(header.subspan(sif::kUuidAt).data(), sif::kUuidBytes);
  return hasher.finish();
}

Digest descriptor_digest(Algorithm algorithm,
                         std::span<const std::uint8_t, sif::kDescriptorBytes> descriptor,
                         std::uint32_t relative_id) {
  const auto part = [&](std::size_t at) { return descriptor.subspan(at).data(); };
  constexpr std::uint8_t kUsed = 1;  // whatever non-zero value is stored
  std::array<std::uint8_t, 4> id;
  sif::store<std::uint32_t>(id, 0, relative_id);
  Hasher hasher(algorithm);
  hasher.add(part(sif::kTypeAt), 4);
  hasher.add(&kUsed, 1);
  hasher.add(id.data(), id.size());
  hasher.add(part(sif::kLinkAt), 4);
  hasher.add(part(sif::kSizeAt), 8);
  hasher.add(part(sif::kObjectCreatedAt), 8);
  hasher.add(part(sif::kUidAt), 16);  // and gid
  hasher.add(part(sif::kNameAt), sif::kNameBytes + sif::kExtraBytes);
  return hasher.finish();
}

Outcome<std::vector<Digest>> hash_file(int fd,
                                       const std::vector<HashJob>& jobs,
                                       const HashProgress& progress,
                                       unsigned threads) {
  Work work{.fd = fd, .jobs = jobs, .progress = progress};
  work.digests.resize(jobs.size());
  const unsigned processors =
      threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::jthread> helpers;
  for (std::size_t i = 1; i < std::min<std::size_t>(processors, jobs.size()); ++i) {
    helpers.emplace_back([&work] { work.loop(); });
  }
  work.loop();
  helpers.clear();  // joins
  if (work.failed) {
    return std::move(work.problem);
  }
  return std::move(work.digests);
}

}  // namespace postern::signature
