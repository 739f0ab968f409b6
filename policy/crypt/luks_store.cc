// Writing a changed LUKS2 header back into an image: LuksHeader::store.
//
// LUKS2 On-Disk Format Specification, 3: two copies of binary header and JSON text stand at the
// start, each with a checksum and a sequence number; of the copies that are whole, the one with the
// higher number counts. So the copy that does not count is written first, and the other one behind
// it.
#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <vector>

#include <sys/mman.h>

#include <fcntl.h>
#include <libcryptsetup.h>
#include <unistd.h>

#include "policy/crypt/luks_header.h"

namespace postern::crypt {
namespace {

constexpr std::uint64_t kStep = 1024 * 1024;  // the area of a key slot is 256 KiB
constexpr std::size_t kSizeAt = 8;
constexpr std::size_t kSequenceAt = 16;

struct Range {
  std::uint64_t offset;
  std::uint64_t bytes;
};

Problem cannot(const char* what) {
  return system_problem(std::string(what) + " the LUKS2 header", errno);
}

Outcome<Ok> read_all(int file, std::uint64_t offset, std::vector<char>& out) {
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t got =
        ::pread(file, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return got < 0 ? cannot("reading")
                     : Problem{.what = "the image ends inside its LUKS2 header"};
    }
    done += static_cast<std::size_t>(got);
  }
  return Ok{};
}

Outcome<Ok> write_all(int file, std::uint64_t offset, const std::vector<char>& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t put =
        ::pwrite(file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) {
      continue;
    }
    if (put < 0) {
      return cannot("writing");
    }
    done += static_cast<std::size_t>(put);
  }
  return Ok{};
}

Outcome<Ok> sync(int file) {
  return ::fsync(file) == 0 ? Outcome<Ok>(Ok{}) : Outcome<Ok>(cannot("bringing to disk"));
}

std::uint64_t big_endian_at(const std::vector<char>& bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  }
  return value;
}

// Whether this copy alone, at `offset` of an otherwise empty header, is one that opens.
bool is_whole(const std::vector<char>& copy, std::uint64_t offset, std::uint64_t device_bytes) {
  const UniqueFd file(::memfd_create("luks-copy", MFD_CLOEXEC));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(device_bytes)) != 0 ||
      !write_all(file.get(), offset, copy)) {
    return false;
  }
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  crypt_device* device = nullptr;
  if (crypt_init(&device, path.c_str()) != 0) {
    return false;
  }
  const bool whole = crypt_load(device, CRYPT_LUKS2, nullptr) == 0;
  crypt_free(device);
  return whole;
}

// Writes what differs of `range`, in steps.
Outcome<Ok> bring(int header, int image, std::uint64_t offset, Range range) {
  for (std::uint64_t at = range.offset; at < range.offset + range.bytes; at += kStep) {
    std::vector<char> now(std::min(kStep, range.offset + range.bytes - at));
    std::vector<char> before(now.size());
    POSTERN_TRY(read_all(header, at, now));
    POSTERN_TRY(read_all(image, offset + at, before));
    if (now != before) {
      POSTERN_TRY(write_all(image, offset + at, now));
    }
  }
  return Ok{};
}

}  // namespace

Outcome<Ok> LuksHeader::store(int image, std::uint64_t offset, std::uint64_t bytes) const {
  std::vector<char> start(kSizeAt + 8);
  POSTERN_TRY(read_all(file(), 0, start));
  const std::uint64_t size = big_endian_at(start, kSizeAt);
  const Range primary{0, size};
  const Range secondary{size, size};

  std::vector<char> first(size);
  std::vector<char> second(size);
  POSTERN_TRY(read_all(image, offset, first));
  POSTERN_TRY(read_all(image, offset + size, second));
  const std::uint64_t device_bytes = std::min<std::uint64_t>(bytes, geometry_.data_offset + kStep);
  const bool secondary_counts =
      is_whole(second, size, device_bytes) &&
      (!is_whole(first, 0, device_bytes) ||
       big_endian_at(second, kSequenceAt) > big_endian_at(first, kSequenceAt));

  std::vector<Range> areas;  // of the slots as they will be, ascending
  for (const int slot : slots()) {
    Range area{};
    if (crypt_keyslot_area(device_.get(), slot, &area.offset, &area.bytes) != 0) {
      return Problem{.what = "LUKS2 header: key slot " + std::to_string(slot) + " has no area"};
    }
    areas.push_back(area);
  }
  std::sort(areas.begin(), areas.end(),
            [](const Range& a, const Range& b) { return a.offset < b.offset; });

  // ORDER: a new slot's area was free before, so that nothing that counts yet is touched; then the
  // copy that does not count, which from then on does; then the other; then what no slot uses.
  for (const Range& area : areas) {
    POSTERN_TRY(bring(file(), image, offset, area));
  }
  POSTERN_TRY(sync(image));
  for (const Range& copy :
       secondary_counts ? std::array{primary, secondary} : std::array{secondary, primary}) {
    POSTERN_TRY(bring(file(), image, offset, copy));
    POSTERN_TRY(sync(image));
  }
  std::uint64_t at = 2 * size;
  for (const Range& area : areas) {
    POSTERN_TRY(bring(file(), image, offset, {at, area.offset - std::min(area.offset, at)}));
    at = std::max(at, area.offset + area.bytes);
  }
  POSTERN_TRY(bring(file(), image, offset,
                    {at, geometry_.data_offset - std::min(geometry_.data_offset, at)}));
  return sync(image);
}

}  // namespace postern::crypt
