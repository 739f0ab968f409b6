// SHA-256 of what passes, and bytes that arrive in a file while they are hashed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "frontend/net/http.h"

namespace postern::net {

class Sha256 {
 public:
  Sha256();
  // The other algorithm: see md5_of_file().
  enum class Legacy : std::uint8_t { kMd5 };
  explicit Sha256(Legacy legacy);
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  // 64 hexadecimal digits. Call it once.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view bytes);
// Of [0, bytes) of a file. Error: it is shorter, or cannot be read.
Outcome<std::string> sha256_of_file(int fd, std::uint64_t bytes);
// MD5, which old libraries want to see beside SHA-256; nothing relies on it.
Outcome<std::string> md5_of_file(int fd, std::uint64_t bytes);

// A download that fills a file from its start, hashed on the way. What stands in the file already
// is hashed first and counts as received, so that a later run goes on where an earlier was cut.
// One thread fills it; others may wait for bytes.
class FileSink : public Sink {
 public:
  // What to say if the file system refuses a write with this error.
  using Unwritable = std::function<Problem(int err)>;

  // `fd` is borrowed and opened for reading and writing. `digest` ("sha256:…") empty: not checked.
  FileSink(int fd, std::uint64_t expected, std::string digest, Unwritable unwritable);

  // Hashes the `present` first bytes of the file.
  Outcome<> resume(std::uint64_t present);

  [[nodiscard]] std::uint64_t position() const override { return position_; }

  [[nodiscard]] std::uint64_t expected() const override { return expected_; }

  Outcome<> take(std::span<const std::byte> bytes) override;
  Outcome<> restart() override;

  // When all has been received: compares size and digest; returns "sha256:…".
  Outcome<std::string> finish();
  // Wakes those who wait: nothing more will come.
  void fail(const Problem& problem);

  // Waits until there are more than `position` bytes, or all; returns how many. Any thread.
  Outcome<std::uint64_t> wait(std::uint64_t position);

  // Whether the file system has refused a write: what is in the file is worth nothing. Not to be
  // asked while the file is being filled.
  [[nodiscard]] bool refused() const { return refused_; }

  // Bytes received by this process; for progress.
  [[nodiscard]] std::uint64_t received() const { return received_.load(); }

 private:
  Problem refuse(int err);

  int fd_;
  std::uint64_t expected_;
  std::string digest_;
  Unwritable unwritable_;
  bool refused_ = false;
  Sha256 hash_;
  std::uint64_t position_ = 0;
  std::atomic<std::uint64_t> received_{0};

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::uint64_t available_ = 0;  // never goes back
  bool ended_ = false;
  std::optional<Problem> problem_;
};

}  // namespace postern::net
