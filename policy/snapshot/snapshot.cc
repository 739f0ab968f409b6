#include "policy/snapshot/snapshot.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

#include <sys/stat.h>

#include <unistd.h>

namespace postern {
namespace {

Problem unusable(std::string_view what, std::string_view why) {
  return Problem{
      .what = std::string(what) + ": " + std::string(why),
      .cure = "the file is damaged or was not copied completely; fetch or build it again"};
}

bool overlap(const Extent& a, const Extent& b) {
  return a.bytes != 0 && b.bytes != 0 && a.offset < b.offset + b.bytes &&
         b.offset < a.offset + a.bytes;
}

Snapshot::Kind kind_of(mode_t mode) {
  return S_ISREG(mode)   ? Snapshot::Kind::kRegular
         : S_ISDIR(mode) ? Snapshot::Kind::kDirectory
                         : Snapshot::Kind::kOther;
}

}  // namespace

Snapshot::Snapshot(int fd, std::size_t max_kept)
    : reader_([fd](std::span<std::uint8_t> out, std::uint64_t offset) -> ssize_t {
        // pread(2): the descriptor's position is shared with other processes.
        const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        return got < 0 ? -errno : got;
      }),
      max_kept_(max_kept) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) {
    kind_ = Kind::kUnknown;
    error_ = errno;
    return;
  }
  kind_ = kind_of(status.st_mode);
  bytes_ = kind_ == Kind::kRegular ? static_cast<std::uint64_t>(status.st_size) : 0;
}

Snapshot::Snapshot(std::uint64_t bytes, Reader reader, std::size_t max_kept)
    : reader_(std::move(reader)), bytes_(bytes), max_kept_(max_kept) {}

Outcome<> Snapshot::check(const Extent& extent, std::string_view what) const {
  if (extent.offset > bytes_ || extent.bytes > bytes_ - extent.offset) {
    return unusable(what, "the file ends too early");
  }
  if (std::any_of(streamed_.begin(), streamed_.end(),
                  [&](const Extent& earlier) { return overlap(earlier, extent); })) {
    return unusable(what, "two parts of the image lie in the same bytes");
  }
  return Ok{};
}

const Snapshot::Region* Snapshot::holding(std::uint64_t offset) const noexcept {
  for (const Region& region : regions_) {
    if (region.offset <= offset && offset < region.end()) {
      return &region;
    }
  }
  return nullptr;
}

std::uint64_t Snapshot::next_held(std::uint64_t offset, std::uint64_t end) const noexcept {
  for (const Region& region : regions_) {
    if (region.offset > offset) {
      end = std::min(end, region.offset);
    }
  }
  return end;
}

std::vector<Snapshot::Piece> Snapshot::pieces(const Extent& extent) const {
  std::vector<Piece> out;
  const std::uint64_t end = extent.offset + extent.bytes;
  for (std::uint64_t at = extent.offset; at < end;) {
    const Region* region = holding(at);
    const std::uint64_t stop =
        region != nullptr ? std::min(end, region->end()) : next_held(at, end);
    out.push_back({{at, stop - at},
                   region != nullptr ? region->view().subspan(at - region->offset, stop - at)
                                     : std::span<const std::uint8_t>()});
    at = stop;
  }
  return out;
}

Outcome<std::span<const std::uint8_t>> Snapshot::fetch(const Extent& extent,
                                                       std::string_view what) {
  POSTERN_TRY(check(extent, what));
  for (const Region& region : regions_) {
    if (region.offset <= extent.offset && extent.offset + extent.bytes <= region.end()) {
      return region.view().subspan(extent.offset - region.offset, extent.bytes);
    }
  }
  if (extent.bytes > max_kept_ - kept_) {
    return Problem{std::string(what) + ": the image has more than " + std::to_string(max_kept_) +
                   " bytes of metadata"};
  }
  const auto size = static_cast<std::size_t>(extent.bytes);
  Region region{extent.offset, std::make_unique_for_overwrite<std::uint8_t[]>(size), size};
  for (const Piece& piece : pieces(extent)) {
    const std::span out(&region.data[piece.extent.offset - extent.offset], piece.extent.bytes);
    if (!piece.held.empty()) {
      std::copy(piece.held.begin(), piece.held.end(), out.begin());
      continue;
    }
    for (std::size_t done = 0; done < out.size();) {
      POSTERN_TRY_ASSIGN(const std::size_t got,
                         read(piece.extent.offset + done, out.subspan(done), what));
      done += got;
    }
  }
  kept_ += size;
  regions_.push_back(std::move(region));
  return regions_.back().view();
}

Outcome<std::string_view> Snapshot::fetch_text(const Extent& extent, std::string_view what) {
  POSTERN_TRY_ASSIGN(const std::span<const std::uint8_t> bytes, fetch(extent, what));
  // SAFETY: any object may be read as char.
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Outcome<std::vector<Snapshot::Piece>> Snapshot::stream(const Extent& extent,
                                                       std::string_view what) {
  POSTERN_TRY(check(extent, what));
  streamed_.push_back(extent);
  return pieces(extent);
}

Outcome<std::size_t> Snapshot::read(std::uint64_t offset,
                                    std::span<std::uint8_t> out,
                                    std::string_view what) const {
  if (offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) - out.size()) {
    return unusable(what, "offset out of range");
  }
  for (;;) {
    const ssize_t got = reader_(out, offset);
    if (got == -EINTR) {
      continue;
    }
    if (got < 0) {
      return system_problem(std::string(what), static_cast<int>(-got));
    }
    if (got == 0 && !out.empty()) {
      return unusable(what, "the file ends too early");
    }
    return static_cast<std::size_t>(got);
  }
}

}  // namespace postern
