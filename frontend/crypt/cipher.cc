#include "frontend/crypt/cipher.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <openssl/evp.h>
#include <unistd.h>

#include "policy/write_problem.h"

namespace postern::crypt {
namespace {

constexpr std::uint64_t kChunkBytes =
    1024 * 1024;  // a multiple of both sector sizes; fits in L2 twice
constexpr unsigned kMaxThreads = 8;

struct FreeCipher {
  void operator()(EVP_CIPHER_CTX* context) const noexcept { EVP_CIPHER_CTX_free(context); }
};

// IV of plain64 (dm-crypt.rst): the sector's number, in 512-byte units, little endian, zero-padded.
std::array<unsigned char, 16> plain64(std::uint64_t sector) {
  std::array<unsigned char, 16> iv{};
  for (std::size_t i = 0; i < 8; ++i) {
    iv[i] = static_cast<unsigned char>(sector >> (8 * i));
  }
  return iv;
}

Outcome<Ok> read_chunk(const CipherJob& job, std::uint64_t at, std::span<unsigned char> chunk) {
  const std::uint64_t there = std::min<std::uint64_t>(chunk.size(), job.from_bytes - at);
  std::uint64_t done = 0;
  while (done < there) {
    const ssize_t got = ::pread(job.from, chunk.data() + done, there - done,
                                static_cast<off_t>(job.from_offset + at + done));
    if (got <= 0) {
      return got < 0 ? system_problem("reading the partition", errno)
                     : Problem{.what = "the image ends inside its partition"};
    }
    done += static_cast<std::uint64_t>(got);
  }
  std::fill(chunk.begin() + static_cast<std::ptrdiff_t>(there), chunk.end(),
            static_cast<unsigned char>(0));
  return Ok{};
}

Outcome<Ok> write_chunk(const CipherJob& job,
                        std::uint64_t at,
                        std::span<const unsigned char> chunk) {
  while (!chunk.empty()) {
    const ssize_t put =
        ::pwrite(job.to, chunk.data(), chunk.size(), static_cast<off_t>(job.to_offset + at));
    if (put < 0) {
      return write_problem("writing the image", errno, "name an output in another place");
    }
    at += static_cast<std::uint64_t>(put);
    chunk = chunk.subspan(static_cast<std::size_t>(put));
  }
  return Ok{};
}

class Worker {
 public:
  Worker(const CipherJob& job, Direction direction) : job_(job), context_(EVP_CIPHER_CTX_new()) {
    // SAFETY: unsigned char may alias any object.
    const auto* key = reinterpret_cast<const unsigned char*>(job.key.data());
    ready_ = context_ != nullptr &&
             EVP_CipherInit_ex(context_.get(), EVP_aes_256_xts(), nullptr, key, nullptr,
                               direction == Direction::kEncrypt ? 1 : 0) == 1;
  }

  Outcome<Ok> transform(std::uint64_t at, std::span<unsigned char> chunk) {
    for (std::size_t done = 0; ready_ && done < chunk.size(); done += job_.sector_bytes) {
      const auto iv = plain64((at + done) / 512 + job_.iv_offset);
      int length = 0;
      unsigned char* sector = chunk.data() + done;
      ready_ = EVP_CipherInit_ex(context_.get(), nullptr, nullptr, nullptr, iv.data(), -1) == 1 &&
               EVP_CipherUpdate(context_.get(), sector, &length, sector,
                                static_cast<int>(job_.sector_bytes)) == 1;
    }
    return ready_ ? Outcome<Ok>(Ok{})
                  : Outcome<Ok>(Problem{.what = "OpenSSL refused AES-256-XTS with this key"});
  }

 private:
  const CipherJob& job_;
  std::unique_ptr<EVP_CIPHER_CTX, FreeCipher> context_;
  bool ready_ = false;
};

}  // namespace

Outcome<Ok> run_cipher(const CipherJob& job,
                       Direction direction,
                       const std::function<void(std::uint64_t)>& progress) {
  POSTERN_CHECK(job.key.size() == 64 && (job.sector_bytes == 512 || job.sector_bytes == 4096));
  const std::uint64_t total =
      (job.from_bytes + job.sector_bytes - 1) / job.sector_bytes * job.sector_bytes;
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  std::optional<Problem> failure;

  const auto work = [&] {
    Worker worker(job, direction);
    std::vector<unsigned char> buffer(kChunkBytes);
    for (;;) {
      const std::uint64_t at = next.fetch_add(kChunkBytes);
      if (at >= total) {
        return;
      }
      const std::span chunk(buffer.data(), std::min(kChunkBytes, total - at));
      auto outcome = read_chunk(job, at, chunk);
      if (outcome) {
        outcome = worker.transform(at, chunk);
      }
      if (outcome) {
        outcome = write_chunk(job, at, chunk);
      }
      const std::lock_guard lock(mutex);
      if (!outcome) {
        next = total;
        failure = std::move(outcome).error();
        return;
      }
      progress(chunk.size());
    }
  };

  const std::uint64_t chunks = (total + kChunkBytes - 1) / kChunkBytes;
  const unsigned threads = static_cast<unsigned>(std::min<std::uint64_t>(
      chunks, std::clamp(std::thread::hardware_concurrency(), 1U, kMaxThreads)));
  std::vector<std::jthread> others;
  for (unsigned i = 1; i < threads; ++i) {
    others.emplace_back(work);
  }
  work();
  others.clear();
  if (failure) {
    return *std::move(failure);
  }
  return Ok{};
}

}  // namespace postern::crypt
