#include "frontend/squashfs/gocryptfs.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include "frontend/squashfs/path_reader.h"
#include "protocol/limits.h"

namespace postern::squashfs {
namespace {

constexpr std::size_t kHeaderBytes = 18;
constexpr std::size_t kNonceBytes = 16;
constexpr std::size_t kTagBytes = 16;
constexpr std::size_t kSealedBytes = kNonceBytes + Gocryptfs::kPlainBytes + kTagBytes;
constexpr std::string_view kConfiguration = "gocryptfs.conf";
constexpr std::string_view kPrefix = "squashfs-";
// Of decoded blocks: what a thread reads is decrypted at once and kept in the clear.
constexpr std::size_t kOuterCacheBytes = 4 << 20;

Problem broken(std::string what) {
  return Problem{.what = "the gocryptfs container of the image " + std::move(what),
                 .cure = "the image is damaged: copy or build it again"};
}

Outcome<std::unique_ptr<Image>> open_outer(const Extent& extent) {
  return Image::open(extent, {.data = kOuterCacheBytes, .metadata = kOuterCacheBytes});
}

// The first in the order of names.
Outcome<Inode> find_file(Image& outer) {
  Reader reader(outer);
  const auto root = reader.inode(reader.root());
  auto cursor = root ? reader.open_listing(*root, 0) : Read<ListingCursor>(root.error());
  if (!cursor) {
    return broken("cannot be listed");
  }
  Entry entry{};
  for (auto more = reader.next_entry(*cursor, entry); more && *more;
       more = reader.next_entry(*cursor, entry)) {
    if (entry.name().starts_with(kPrefix)) {
      auto inode = reader.inode(entry.inode);
      if (!inode || !S_ISREG(inode->mode)) {
        return broken("has no regular file that is encrypted");
      }
      return *inode;
    }
  }
  return broken("holds no encrypted file system");
}

}  // namespace

Outcome<std::string> Gocryptfs::configuration(const Extent& extent) noexcept {
  POSTERN_TRY_ASSIGN(const auto outer, open_outer(extent));
  PathReader paths(*outer);
  const auto inode = paths.resolve(std::string(kConfiguration));
  auto text = inode && S_ISREG(inode->mode) ? paths.bytes(*inode, kMaxFileBytes)
                                            : Read<std::string>(Errno{ENOENT});
  if (!text) {
    return broken("has no " + std::string(kConfiguration) + " that can be read");
  }
  return *std::move(text);
}

Outcome<std::unique_ptr<Gocryptfs>> Gocryptfs::open(const Extent& extent,
                                                    const GcmCipher& cipher) noexcept {
  POSTERN_TRY_ASSIGN(auto outer, open_outer(extent));
  POSTERN_TRY_ASSIGN(const Inode file, find_file(*outer));
  std::unique_ptr<Gocryptfs> out(new (std::nothrow) Gocryptfs(std::move(outer), cipher));
  if (out == nullptr) {
    return system_problem("reserving memory for the image", ENOMEM);
  }
  out->file_ = file;
  std::array<std::byte, kHeaderBytes> header{};
  Reader reader(*out->outer_);
  if (file.size < kHeaderBytes || !out->read_sealed(0, header, reader)) {
    return broken("has an encrypted file without a header");
  }
  if (header[0] != std::byte{0} || header[1] != std::byte{2}) {
    return broken("has another version of the format than 2");
  }
  std::copy(header.begin() + 2, header.end(), out->name_.begin());
  const std::uint64_t sealed = file.size - kHeaderBytes;
  const std::uint64_t rest = sealed % kSealedBytes;
  if (rest != 0 && rest <= kNonceBytes + kTagBytes) {
    return broken("has an encrypted file that is cut off");
  }
  out->size_ =
      sealed / kSealedBytes * kPlainBytes + (rest == 0 ? 0 : rest - kNonceBytes - kTagBytes);
  return out;
}

std::unique_ptr<GocryptfsThread> Gocryptfs::begin() const noexcept {
  return std::unique_ptr<GocryptfsThread>(new (std::nothrow) GocryptfsThread(*outer_));
}

// Bytes of the encrypted file.
Read<> Gocryptfs::read_sealed(std::uint64_t start,
                              std::span<std::byte> out,
                              Reader& reader) const noexcept {
  const std::uint64_t block_bytes = outer_->super().block_size;
  std::vector<DataBlock> blocks;
  const std::uint64_t first = start / block_bytes;
  const std::uint64_t last = (start + out.size() + block_bytes - 1) / block_bytes;
  POSTERN_TRY(reader.blocks(file_, first, last - first, blocks));
  std::uint64_t skip = start % block_bytes;
  for (const DataBlock& block : blocks) {
    if (skip >= block.length) {
      return Errno{EIO};
    }
    const std::size_t length = std::min<std::size_t>(out.size(), block.length - skip);
    if (block.hole()) {
      std::fill_n(out.begin(), length, std::byte{0});
    } else {
      POSTERN_TRY_ASSIGN(const BlockCache::Pin data, reader.data(block));
      const auto part = data.bytes().subspan(block.offset + skip, length);
      std::copy(part.begin(), part.end(), out.begin());
    }
    out = out.subspan(length);
    skip = 0;
  }
  return out.empty() ? Read<>(Ok{}) : Read<>(Errno{EIO});
}

Read<> Gocryptfs::read(std::uint64_t start,
                       std::span<std::byte> out,
                       GocryptfsThread& thread) const noexcept {
  if (start > size_ || out.size() > size_ - start) {
    return Errno{EIO};
  }
  std::uint64_t number = start / kPlainBytes;
  const std::size_t blocks = (out.size() + kPlainBytes - 1) / kPlainBytes;
  thread.sealed.resize(out.size() + blocks * (kNonceBytes + kTagBytes));
  POSTERN_TRY(read_sealed(kHeaderBytes + number * kSealedBytes, thread.sealed, thread.reader));
  std::span<const std::byte> sealed(thread.sealed);
  for (; !out.empty(); ++number) {
    const std::size_t length = std::min(out.size(), kPlainBytes);
    const auto whole = sealed.first(kNonceBytes + length + kTagBytes);
    // A hole of the file, which has no nonce.
    if (std::all_of(whole.begin(), whole.end(), [](std::byte b) { return b == std::byte{0}; })) {
      std::fill_n(out.begin(), length, std::byte{0});
    } else {
      std::array<std::byte, 8 + 16> named{};
      for (std::size_t i = 0; i < 8; ++i) {
        named[i] = static_cast<std::byte>(number >> (8 * (7 - i)));
      }
      std::copy(name_.begin(), name_.end(), named.begin() + 8);
      POSTERN_TRY(cipher_.open(whole.first(kNonceBytes), named, whole.subspan(kNonceBytes, length),
                               whole.last(kTagBytes), out.first(length), thread.cipher));
    }
    out = out.subspan(length);
    sealed = sealed.subspan(whole.size());
  }
  return Ok{};
}

}  // namespace postern::squashfs
