#include "policy/signature/digest.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include <openssl/evp.h>

#include "policy/sif/bytes.h"
#include "policy/text/hex.h"

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

// Jobs that share runs, and the order in which one pass over the file serves all of them.
struct Pass {
  std::vector<std::size_t> jobs;
  std::vector<Extent> runs;
  std::vector<std::vector<Snapshot::Piece>> pieces;  // of each run
};

bool shares_run(const Pass& pass, const HashJob& job) {
  return std::any_of(job.runs.begin(), job.runs.end(), [&](const Extent& run) {
    return std::find(pass.runs.begin(), pass.runs.end(), run) != pass.runs.end();
  });
}

// Every job names its runs in the order of the image's table, so that the longest job gives the
// order for those that name a part of the same runs.
std::vector<Pass> passes_of(const std::vector<HashJob>& jobs) {
  std::vector<std::size_t> longest_first(jobs.size());
  std::iota(longest_first.begin(), longest_first.end(), std::size_t{0});
  std::stable_sort(longest_first.begin(), longest_first.end(), [&](std::size_t a, std::size_t b) {
    return jobs[a].runs.size() > jobs[b].runs.size();
  });
  std::vector<Pass> passes;
  for (const std::size_t index : longest_first) {
    const HashJob& job = jobs[index];
    auto found = std::find_if(passes.begin(), passes.end(),
                              [&](const Pass& pass) { return shares_run(pass, job); });
    if (found == passes.end()) {
      found = passes.insert(passes.end(), Pass{{}, job.runs, {}});
    }
    found->jobs.push_back(index);
  }
  return passes;
}

// Whether the pass meets the job's runs one after the other, each once.
bool serves(const Pass& pass, const HashJob& job) {
  auto at = pass.runs.begin();
  for (const Extent& run : job.runs) {
    at = std::find(at, pass.runs.end(), run);
    if (at == pass.runs.end()) {
      return false;
    }
    ++at;
  }
  return true;
}

// What the threads of hash_file share.
struct Work {
  const Snapshot& file;
  const std::vector<HashJob>& jobs;
  const std::vector<Pass>& passes;
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

  template <class Take>
  bool read_piece(const Snapshot::Piece& piece, std::vector<std::uint8_t>& buffer, Take take) {
    if (!piece.held.empty()) {
      take(piece.held);
      return true;
    }
    Extent left = piece.extent;
    while (left.bytes > 0 && !failed) {
      const auto want =
          static_cast<std::size_t>(std::min<std::uint64_t>(left.bytes, buffer.size()));
      const auto got = file.read(left.offset, std::span(buffer).first(want), "reading the image");
      if (!got) {
        fail(got.error());
        return false;
      }
      take(std::span<const std::uint8_t>(buffer).first(*got));
      left.offset += *got;
      left.bytes -= *got;
    }
    return !failed;
  }

  void hash(const Pass& pass, std::vector<std::uint8_t>& buffer) {
    std::vector<Hasher> hashers;
    for (const std::size_t job : pass.jobs) {
      hashers.emplace_back(jobs[job].algorithm);
    }
    for (std::size_t run = 0; run < pass.runs.size(); ++run) {
      const auto take = [&](std::span<const std::uint8_t> bytes) {
        for (std::size_t i = 0; i < hashers.size(); ++i) {
          const std::vector<Extent>& wanted = jobs[pass.jobs[i]].runs;
          if (std::find(wanted.begin(), wanted.end(), pass.runs[run]) != wanted.end()) {
            hashers[i].add(bytes.data(), bytes.size());
          }
        }
        report(bytes.size());
      };
      for (const Snapshot::Piece& piece : pass.pieces[run]) {
        if (!read_piece(piece, buffer, take)) {
          return;
        }
      }
    }
    for (std::size_t i = 0; i < hashers.size(); ++i) {
      digests[pass.jobs[i]] = hashers[i].finish();
    }
  }

  void loop() {
    // Fits the second-level cache, so that the hash reads what pread has just written there.
    std::vector<std::uint8_t> buffer(std::size_t{256} << 10);
    for (std::size_t i = next++; i < passes.size() && !failed; i = next++) {
      hash(passes[i], buffer);
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
  const auto bytes = text::from_hex(hex);
  if (!bytes) {
    return Problem{"a digest holds a character that is not hexadecimal"};
  }
  std::copy(bytes->begin(), bytes->end(), out.bytes.begin());
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

std::string digest_text(const Digest& digest) {
  return std::string(name_of(digest.algorithm)) + ":" +
         text::to_hex(std::span(digest.bytes).first(digest_bytes(digest.algorithm)));
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

std::uint64_t bytes_of(const std::vector<HashJob>& jobs) {
  std::uint64_t total = 0;
  for (const Pass& pass : passes_of(jobs)) {
    for (const Extent& run : pass.runs) {
      total += run.bytes;
    }
  }
  return total;
}

Outcome<std::vector<Digest>> hash_file(Snapshot& file,
                                       const std::vector<HashJob>& jobs,
                                       const HashProgress& progress,
                                       unsigned threads) {
  std::vector<Pass> passes = passes_of(jobs);
  for (Pass& pass : passes) {
    for (const std::size_t job : pass.jobs) {
      if (!serves(pass, jobs[job])) {
        return Problem{"two parts of the image lie in the same bytes"};
      }
    }
    for (const Extent& run : pass.runs) {
      POSTERN_TRY_ASSIGN(std::vector<Snapshot::Piece> pieces,
                         file.stream(run, "reading the image"));
      pass.pieces.push_back(std::move(pieces));
    }
  }
  Work work{.file = file, .jobs = jobs, .passes = passes, .progress = progress};
  work.digests.resize(jobs.size());
  const unsigned processors =
      threads != 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::jthread> helpers;
  for (std::size_t i = 1; i < std::min<std::size_t>(processors, passes.size()); ++i) {
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
