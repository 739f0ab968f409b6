#include "frontend/net/digest.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include <openssl/evp.h>
#include <unistd.h>

#include "policy/signature/digest.h"
#include "policy/text/hex.h"

namespace postern::net {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();

  State() { EVP_DigestInit_ex(context, EVP_sha256(), nullptr); }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}

Sha256::Sha256(Legacy) : state_(std::make_unique<State>()) {
  EVP_DigestInit_ex(state_->context, EVP_md5(), nullptr);
}

Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Sha256::hex() {
  std::array<std::uint8_t, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  EVP_DigestFinal_ex(state_->context, digest.data(), &length);
  return text::to_hex(std::span(digest).first(length));
}

std::string sha256_hex(std::string_view bytes) {
  return signature::digest_text(signature::digest_of(signature::Algorithm::kSha256, bytes))
      .substr(7);
}

namespace {

Outcome<> hash_file(int fd, std::uint64_t bytes, Sha256& hash) {
  std::vector<std::byte> piece(kPiece);
  for (std::uint64_t at = 0; at < bytes;) {
    const std::size_t want = std::min<std::uint64_t>(kPiece, bytes - at);
    const ssize_t got = ::pread(fd, piece.data(), want, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return got < 0 ? system_problem("reading a file of the cache", errno)
                     : Problem{.what = "a file became shorter while it was read"};
    }
    hash.update(std::span(piece).first(static_cast<std::size_t>(got)));
    at += static_cast<std::uint64_t>(got);
  }
  return Ok{};
}

}  // namespace

Outcome<std::string> sha256_of_file(int fd, std::uint64_t bytes) {
  Sha256 hash;
  POSTERN_TRY(hash_file(fd, bytes, hash));
  return hash.hex();
}

Outcome<std::string> md5_of_file(int fd, std::uint64_t bytes) {
  Sha256 hash(Sha256::Legacy::kMd5);
  POSTERN_TRY(hash_file(fd, bytes, hash));
  return hash.hex();
}

FileSink::FileSink(int fd, std::uint64_t expected, std::string digest, Unwritable unwritable)
    : fd_(fd),
      expected_(expected),
      digest_(std::move(digest)),
      unwritable_(std::move(unwritable)) {}

Problem FileSink::refuse(int err) {
  refused_ = true;
  return unwritable_(err);
}

Outcome<> FileSink::resume(std::uint64_t present) {
  present = expected_ == kUnknownSize ? present : std::min(present, expected_);
  POSTERN_TRY(hash_file(fd_, present, hash_));
  position_ = present;
  const std::lock_guard lock(mutex_);
  available_ = present;
  return Ok{};
}

Outcome<> FileSink::take(std::span<const std::byte> bytes) {
  if (expected_ != kUnknownSize && bytes.size() > expected_ - position_) {
    return Problem{.what = "the server sends more than the " + std::to_string(expected_) +
                           " bytes that were announced"};
  }
  hash_.update(bytes);
  received_ += bytes.size();
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(position_));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      return refuse(errno);
    }
    position_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  {
    const std::lock_guard lock(mutex_);
    available_ = std::max(available_, position_);
  }
  arrived_.notify_all();
  return Ok{};
}

Outcome<> FileSink::restart() {
  hash_ = Sha256();
  position_ = 0;
  return Ok{};
}

Outcome<std::string> FileSink::finish() {
  const std::string found = "sha256:" + hash_.hex();
  const bool whole = expected_ == kUnknownSize || position_ == expected_;
  if (!whole || (!digest_.empty() && found != digest_)) {
    Problem problem{.what = "error verifying sha256 checksum after reading " +
                            std::to_string(position_) + " bytes; got \"" + found + "\", want \"" +
                            digest_ + "\"",
                    .cure =
                        "the server, or something between it and this machine, sends other "
                        "bytes than the image has: do not trust it"};
    fail(problem);
    return problem;
  }
  if (::ftruncate(fd_, static_cast<off_t>(position_)) != 0) {
    return refuse(errno);
  }
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  arrived_.notify_all();
  return found;
}

void FileSink::fail(const Problem& problem) {
  {
    const std::lock_guard lock(mutex_);
    if (!ended_ && !problem_) {
      problem_ = problem;
    }
  }
  arrived_.notify_all();
}

Outcome<std::uint64_t> FileSink::wait(std::uint64_t position) {
  std::unique_lock lock(mutex_);
  arrived_.wait(lock, [&] { return available_ > position || ended_ || problem_; });
  if (available_ > position || ended_) {
    return available_;
  }
  return *problem_;
}

}  // namespace postern::net
