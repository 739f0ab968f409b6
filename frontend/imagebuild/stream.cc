#include "frontend/imagebuild/stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <archive.h>
#include <openssl/evp.h>
#include <unistd.h>
#include <zlib.h>

#include "policy/text/hex.h"

namespace postern::imagebuild {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

std::string hex_digest(std::span<const unsigned char> digest) {
  return "sha256:" + text::to_hex(digest);
}

std::string finish_digest(EVP_MD_CTX* context) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  POSTERN_CHECK(EVP_DigestFinal_ex(context, digest.data(), &length) == 1);
  return hex_digest({digest.data(), length});
}

}  // namespace

std::uint64_t Stream::skip(std::uint64_t) {
  return 0;
}

std::uint64_t FileStream::skip(std::uint64_t bytes) {
  const std::uint64_t count = std::min(bytes, left_);
  offset_ += count;
  left_ -= count;
  if (report_) {
    report_(count);
  }
  return count;
}

FileStream::FileStream(int fd, std::uint64_t offset, std::uint64_t size, std::string name)
    : fd_(fd), offset_(offset), left_(size), name_(std::move(name)), buffer_(kBufferBytes) {}

Outcome<std::span<const std::byte>> FileStream::next() {
  if (left_ == 0) {
    return std::span<const std::byte>{};
  }
  const std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(left_, buffer_.size()));
  if (available_) {
    POSTERN_TRY(
        available_(offset_ + want - 1));  // whole pieces: formats are told by their first one
  }
  ssize_t got = 0;
  do {
    got = ::pread(fd_, buffer_.data(), want, static_cast<off_t>(offset_));
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    return system_problem("reading " + name_, errno);
  }
  if (got == 0) {
    return Problem{.what = name_ + " is truncated: " + std::to_string(left_) + " bytes are missing",
                   .cure = "copy or download it again"};
  }
  const auto count = static_cast<std::uint64_t>(got);
  offset_ += count;
  left_ -= count;
  if (report_) {
    report_(count);
  }
  return std::span<const std::byte>(buffer_.data(), static_cast<std::size_t>(got));
}

struct HashingStream::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();

  ~State() { EVP_MD_CTX_free(context); }
};

HashingStream::HashingStream(Stream& below) : below_(below), state_(std::make_unique<State>()) {
  POSTERN_CHECK(state_->context != nullptr);
  POSTERN_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

HashingStream::~HashingStream() = default;

Outcome<std::span<const std::byte>> HashingStream::next() {
  POSTERN_TRY_ASSIGN(const std::span<const std::byte> piece, below_.next());
  if (!piece.empty()) {
    POSTERN_CHECK(EVP_DigestUpdate(state_->context, piece.data(), piece.size()) == 1);
    bytes_ += piece.size();
    const auto last =
        std::find_if(piece.rbegin(), piece.rend(), [](std::byte b) { return b != std::byte{0}; });
    const auto zeros = static_cast<std::uint64_t>(last - piece.rbegin());
    zeros_ = zeros == piece.size() ? zeros_ + zeros : zeros;
  }
  return piece;
}

Outcome<std::string> HashingStream::digest() {
  while (true) {
    POSTERN_TRY_ASSIGN(const std::span<const std::byte> piece, next());
    if (piece.empty()) {
      return finish_digest(state_->context);
    }
  }
}

namespace {

// gzip by zlib itself: libarchive's gzip filter does not check the CRC at the end.
class GzipStream : public Stream {
 public:
  GzipStream(Stream& below, std::span<const std::byte> first, std::string name)
      : below_(below), input_(first), name_(std::move(name)), buffer_(kBufferBytes) {
    POSTERN_CHECK(inflateInit2(&state_, MAX_WBITS + 16) == Z_OK);
  }

  ~GzipStream() override { inflateEnd(&state_); }

  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  Outcome<std::span<const std::byte>> next() override {
    std::size_t made = 0;
    while (!ended_ && made == 0) {
      if (input_.empty()) {
        POSTERN_TRY_ASSIGN(input_, below_.next());
        if (input_.empty()) {
          if (between_) {
            ended_ = true;
            break;
          }
          return failed("truncated gzip input");
        }
      }
      if (between_) {
        POSTERN_TRY(start_member());
        continue;
      }
      // SAFETY: zlib's types are unsigned char, and it writes to its output only.
      state_.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(input_.data()));
      state_.avail_in = static_cast<uInt>(std::min<std::size_t>(input_.size(), kBufferBytes));
      state_.next_out = reinterpret_cast<Bytef*>(buffer_.data());
      state_.avail_out = static_cast<uInt>(buffer_.size());
      const uInt offered = state_.avail_in;
      const int status = inflate(&state_, Z_NO_FLUSH);
      input_ = input_.subspan(offered - state_.avail_in);
      made = buffer_.size() - state_.avail_out;
      if (status == Z_STREAM_END) {
        between_ = true;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        return failed(state_.msg != nullptr ? state_.msg : "damaged gzip input");
      }
    }
    return std::span<const std::byte>(buffer_.data(), made);
  }

 private:
  // Behind a member: another one, or padding that gzip(1) ignores as well.
  Outcome<> start_member() {
    if (input_.front() != std::byte{0x1f}) {
      ended_ = true;
      return {};
    }
    between_ = false;
    return inflateReset(&state_) == Z_OK ? Outcome<>() : failed("damaged gzip input");
  }

  Problem failed(const char* words) const {
    return Problem{.what = "decompressing " + name_ + ": " + words,
                   .cure = "the file is damaged or incomplete: copy or download it again"};
  }

  Stream& below_;
  std::span<const std::byte> input_;
  std::string name_;
  std::vector<std::byte> buffer_;
  z_stream state_{};
  bool between_ = false;
  bool ended_ = false;
};

}  // namespace

struct DecompressingStream::State {
  Stream& below;
  std::string name;
  std::unique_ptr<GzipStream> gzip;
  std::span<const std::byte> first;  // of the stream below, read to recognise it
  ::archive* reader = nullptr;
  bool open = false;
  bool ended = false;
  std::optional<Problem> problem;  // of the stream below, kept across the C library

  State(Stream& stream, std::string text) : below(stream), name(std::move(text)) {}

  ~State() { archive_read_free(reader); }

  static la_ssize_t read(::archive* reader, void* self, const void** out) {
    auto* state = static_cast<State*>(self);
    if (!state->first.empty()) {
      *out = state->first.data();
      return static_cast<la_ssize_t>(std::exchange(state->first, {}).size());
    }
    auto piece = state->below.next();
    if (!piece) {
      state->problem = std::move(piece).error();
      archive_set_error(reader, EIO, "%s", "reading failed");
      return -1;
    }
    *out = piece->data();
    return static_cast<la_ssize_t>(piece->size());
  }

  Problem failed() {
    if (problem) {
      return *problem;
    }
    const char* words = archive_error_string(reader);
    return Problem{
        .what = "decompressing " + name + ": " + (words != nullptr ? words : "unknown error"),
        .cure = "the file is damaged or incomplete: copy or download it again"};
  }

  Outcome<> start();
};

// Looks at the first bytes and sets up what they need.
Outcome<> DecompressingStream::State::start() {
  open = true;
  POSTERN_TRY_ASSIGN(first, below.next());
  if (first.size() >= 2 && first[0] == std::byte{0x1f} && first[1] == std::byte{0x8b}) {
    gzip = std::make_unique<GzipStream>(below, std::exchange(first, {}), name);
    return {};
  }
  reader = archive_read_new();
  POSTERN_CHECK(reader != nullptr);
  // Named one by one: "all" includes filters that start other programs (lrzip, grzip).
  archive_read_support_filter_bzip2(reader);
  archive_read_support_filter_xz(reader);
  archive_read_support_filter_lzma(reader);
  archive_read_support_filter_lz4(reader);
  archive_read_support_filter_zstd(reader);
  archive_read_support_format_raw(reader);
  archive_read_support_format_empty(reader);
  if (archive_read_open(reader, this, nullptr, read, nullptr) != ARCHIVE_OK) {
    return failed();
  }
  ::archive_entry* entry = nullptr;
  const int status = archive_read_next_header(reader, &entry);
  ended = status == ARCHIVE_EOF;
  return status == ARCHIVE_OK || ended ? Outcome<>() : failed();
}

DecompressingStream::DecompressingStream(Stream& below, std::string name)
    : state_(std::make_unique<State>(below, std::move(name))) {}

DecompressingStream::~DecompressingStream() = default;

Outcome<std::span<const std::byte>> DecompressingStream::next() {
  State& state = *state_;
  if (!state.open) {
    POSTERN_TRY(state.start());
  }
  if (state.gzip) {
    return state.gzip->next();
  }
  while (!state.ended) {
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int status = archive_read_data_block(state.reader, &data, &size, &offset);
    if (status == ARCHIVE_EOF) {
      state.ended = true;
    } else if (status != ARCHIVE_OK) {
      return state.failed();
    } else if (size > 0) {
      return std::span<const std::byte>(static_cast<const std::byte*>(data), size);
    }
  }
  return std::span<const std::byte>{};
}

bool is_compressed(std::string_view head) {
  using std::string_view_literals::operator""sv;
  for (const std::string_view magic : {"\x1f\x8b"sv, "BZh"sv, "\xfd\x37zXZ"sv, "\x28\xb5\x2f\xfd"sv,
                                       "\x04\x22\x4d\x18"sv, "\x5d\x00\x00"sv}) {
    if (head.starts_with(magic)) {
      return true;
    }
  }
  return false;
}

std::string sha256_of(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  POSTERN_CHECK(
      EVP_Digest(bytes.data(), bytes.size(), digest.data(), &length, EVP_sha256(), nullptr) == 1);
  return hex_digest({digest.data(), length});
}

bool is_sha256_digest(std::string_view text) {
  return text.starts_with("sha256:") && text::is_lower_hex(text.substr(7), 64);
}

}  // namespace postern::imagebuild
