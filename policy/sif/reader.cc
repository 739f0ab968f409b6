#include "policy/sif/reader.h"

#include <algorithm>
#include <limits>

#include <sys/stat.h>

#include <unistd.h>

#include "policy/sif/bytes.h"

namespace postern::sif {
namespace {

using Bytes = std::span<const std::uint8_t>;

// SAFETY: any object may be read as char.
std::string_view text_at(Bytes bytes, std::size_t at, std::size_t size) {
  const Bytes field = bytes.subspan(at, size);
  return {reinterpret_cast<const char*>(field.data()), field.size()};
}

std::string_view without_trailing_nuls(std::string_view text) {
  const std::size_t last = text.find_last_not_of('\0');
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

std::string_view until_nul(std::string_view text) {
  return text.substr(0, text.find('\0'));
}

Problem malformed(std::string what) {
  return Problem{
      .what = "not a valid SIF image: " + std::move(what),
      .cure = "the file is damaged or was not copied completely; fetch or build it again"};
}

Extra decode_extra(DataType type, Bytes extra) {
  // Unknown data types have no known extra area, so `default` is the meaning here, not a shortcut.
  if (type == DataType::kPartition) {
    return PartitionInfo{.fs = static_cast<FileSystem>(load<std::int32_t>(extra, 0)),
                         .type = static_cast<PartitionType>(load<std::int32_t>(extra, 4)),
                         .architecture = architecture_from_code(text_at(extra, 8, 3))};
  }
  if (type == DataType::kSignature) {
    SignatureInfo info{.hash = static_cast<HashType>(load<std::int32_t>(extra, 0)),
                       .fingerprint = {}};
    std::copy_n(extra.begin() + 4, kFingerprintBytes, info.fingerprint.begin());
    return info;
  }
  if (type == DataType::kCryptoMessage) {
    return MessageInfo{.format = static_cast<MessageFormat>(load<std::int32_t>(extra, 0)),
                       .type = static_cast<MessageType>(load<std::int32_t>(extra, 4))};
  }
  if (type == DataType::kSbom) {
    return SbomInfo{.format = static_cast<SbomFormat>(load<std::int32_t>(extra, 0))};
  }
  if (type == DataType::kOciRootIndex || type == DataType::kOciBlob) {
    return OciInfo{.digest = std::string(until_nul(text_at(extra, 0, kExtraBytes)))};
  }
  return std::monostate{};
}

// BOUNDARY: after this, total, table_offset and total × kDescriptorBytes are safe to compute with.
Outcome<> check_table(const Header& h, std::uint64_t file_bytes) {
  if (h.total < 0 || h.total > kMaxCapacity) {
    return malformed("the descriptor table claims " + std::to_string(h.total) + " entries (0 to " +
                     std::to_string(kMaxCapacity) + " are possible)");
  }
  if (h.table_offset < std::int64_t(kHeaderBytes)) {
    return malformed("the descriptor table overlaps the header");
  }
  const std::int64_t needed = h.total * std::int64_t(kDescriptorBytes);
  if (h.table_bytes < needed) {
    return malformed("the descriptor table is declared smaller than its entries");
  }
  const auto offset = static_cast<std::uint64_t>(h.table_offset);
  if (offset > file_bytes || static_cast<std::uint64_t>(needed) > file_bytes - offset) {
    return malformed("the descriptor table lies beyond the end of the file");
  }
  return Ok{};
}

std::string object_words(std::uint32_t id) {
  return "object " + std::to_string(id);
}

}  // namespace

Header decode_header(Bytes raw) {
  Header h{};
  h.launch = without_trailing_nuls(text_at(raw, kLaunchAt, kLaunchBytes));
  h.architecture = architecture_from_code(text_at(raw, kArchitectureAt, 3));
  std::copy_n(raw.begin() + kUuidAt, kUuidBytes, h.id.begin());
  h.created = load<std::int64_t>(raw, kCreatedAt);
  h.modified = load<std::int64_t>(raw, kModifiedAt);
  h.free = load<std::int64_t>(raw, kFreeAt);
  h.total = load<std::int64_t>(raw, kTotalAt);
  h.table_offset = load<std::int64_t>(raw, kTableOffsetAt);
  h.table_bytes = load<std::int64_t>(raw, kTableBytesAt);
  h.data_offset = load<std::int64_t>(raw, kDataOffsetAt);
  h.data_bytes = load<std::int64_t>(raw, kDataBytesAt);
  return h;
}

Descriptor decode_descriptor(Bytes raw, std::size_t slot) {
  Descriptor d{};
  d.type = static_cast<DataType>(load<std::int32_t>(raw, kTypeAt));
  d.id = load<std::uint32_t>(raw, kIdAt);
  d.raw_group = load<std::uint32_t>(raw, kGroupAt);
  d.group = d.raw_group & ~kGroupMask;
  d.raw_link = load<std::uint32_t>(raw, kLinkAt);
  d.link = d.raw_link & ~kGroupMask;
  // One to three of the bits set is a link to the object of the masked number.
  d.link_is_group = (d.raw_link & kGroupMask) == kGroupMask;
  d.offset = load<std::int64_t>(raw, kOffsetAt);
  d.size = load<std::int64_t>(raw, kSizeAt);
  d.padded_size = load<std::int64_t>(raw, kPaddedSizeAt);
  d.created = load<std::int64_t>(raw, kObjectCreatedAt);
  d.modified = load<std::int64_t>(raw, kObjectModifiedAt);
  d.uid = load<std::int64_t>(raw, kUidAt);
  d.gid = load<std::int64_t>(raw, kGidAt);
  d.name = without_trailing_nuls(text_at(raw, kNameAt, kNameBytes));
  d.extra = decode_extra(d.type, raw.subspan(kExtraAt, kExtraBytes));
  d.slot = slot;
  std::copy_n(raw.begin(), kDescriptorBytes, d.raw.begin());
  return d;
}

Outcome<> read_exactly(int fd,
                       std::uint64_t offset,
                       std::span<std::uint8_t> out,
                       const char* what) {
  if (offset > std::uint64_t(std::numeric_limits<off_t>::max()) - out.size()) {
    return malformed(std::string(what) + ": offset out of range");
  }
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return system_problem(what, errno);
    }
    if (n == 0) {
      return malformed(std::string(what) + ": the file ends too early");
    }
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return Ok{};
}

Outcome<Image> read(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) {
    return system_problem("reading the image's size", errno);
  }
  if (!S_ISREG(status.st_mode)) {
    return Problem{.what = "not a regular file, so not a SIF image"};
  }
  Image image;
  image.file_bytes_ = static_cast<std::uint64_t>(status.st_size);
  POSTERN_TRY(read_exactly(fd, 0, image.raw_header_, "reading the header"));
  if (text_at(image.raw_header_, kMagicAt, kMagic.size()) != kMagic) {
    return malformed("the magic number is missing");
  }
  if (text_at(image.raw_header_, kVersionAt, kVersion.size()) != kVersion) {
    return malformed("unknown version of the format (only version 01 exists)");
  }
  image.header_ = decode_header(image.raw_header_);
  POSTERN_TRY(check_table(image.header_, image.file_bytes_));

  // Slot by slot in a fixed buffer: what is kept grows with the slots in use only.
  constexpr std::size_t kBatch = 64;
  std::array<std::uint8_t, kBatch * kDescriptorBytes> buffer;
  const auto total = static_cast<std::size_t>(image.header_.total);
  for (std::size_t slot = 0; slot < total; slot += kBatch) {
    const std::size_t count = std::min(kBatch, total - slot);
    const std::span batch = std::span(buffer).first(count * kDescriptorBytes);
    POSTERN_TRY(read_exactly(
        fd, static_cast<std::uint64_t>(image.header_.table_offset) + slot * kDescriptorBytes, batch,
        "reading the descriptor table"));
    for (std::size_t i = 0; i < count; ++i) {
      const Bytes raw = batch.subspan(i * kDescriptorBytes, kDescriptorBytes);
      if (raw[kUsedAt] != 0) {
        image.descriptors_.push_back(decode_descriptor(raw, slot + i));
      }
    }
  }
  return image;
}

Outcome<const Descriptor*> Image::object(std::uint32_t id) const {
  if (id == 0) {
    return Problem{.what = "0 is not an object id", .cure = "`sif list` shows the ids"};
  }
  const Descriptor* found = nullptr;
  for (const Descriptor& d : descriptors_) {
    if (d.id == id) {
      if (found != nullptr) {
        return malformed("several objects have the id " + std::to_string(id));
      }
      found = &d;
    }
  }
  if (found == nullptr) {
    return Problem{.what = "the image has no " + object_words(id),
                   .cure = "`sif list` shows the ids"};
  }
  return found;
}

Outcome<const Descriptor*> Image::primary_partition() const {
  const Descriptor* found = nullptr;
  for (const Descriptor& d : descriptors_) {
    const PartitionInfo* partition = d.partition();
    if (partition != nullptr && partition->type == PartitionType::kPrimarySystem) {
      if (found != nullptr) {
        return Problem{.what = "the image has several primary partitions: " +
                               object_words(found->id) + " and " + object_words(d.id),
                       .cure = "delete one with `sif del`"};
      }
      found = &d;
    }
  }
  if (found == nullptr) {
    return Problem{.what = "no root file system: the image has no primary partition",
                   .cure = "name one with `sif setprim`, or add one with `sif add`"};
  }
  return found;
}

std::vector<const Descriptor*> Image::group(std::uint32_t group) const {
  std::vector<const Descriptor*> members;
  if (group == 0) {
    return members;
  }
  for (const Descriptor& d : descriptors_) {
    if (d.group == group) {
      members.push_back(&d);
    }
  }
  return members;
}

std::vector<std::uint32_t> Image::groups() const {
  std::vector<std::uint32_t> groups;
  for (const Descriptor& d : descriptors_) {
    if (d.group != 0) {
      groups.push_back(d.group);
    }
  }
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  return groups;
}

const Descriptor* Image::find(DataType type, std::string_view name) const noexcept {
  for (const Descriptor& d : descriptors_) {
    if (d.type == type && d.name == name) {
      return &d;
    }
  }
  return nullptr;
}

Outcome<Extent> Image::extent_of(const Descriptor& descriptor) const {
  if (descriptor.offset < 0 || descriptor.size < 0) {
    return malformed(object_words(descriptor.id) + " has a negative offset or size");
  }
  const Extent extent{.offset = static_cast<std::uint64_t>(descriptor.offset),
                      .bytes = static_cast<std::uint64_t>(descriptor.size)};
  if (extent.offset > file_bytes_ || extent.bytes > file_bytes_ - extent.offset) {
    return malformed(object_words(descriptor.id) + " lies beyond the end of the file");
  }
  return extent;
}

Outcome<std::string> read_object(int fd,
                                 const Image& image,
                                 const Descriptor& descriptor,
                                 std::uint64_t max_bytes) {
  POSTERN_TRY_ASSIGN(const Extent extent, image.extent_of(descriptor));
  if (extent.bytes > max_bytes) {
    return Problem{.what = object_words(descriptor.id) + " is larger than " +
                           std::to_string(max_bytes) + " bytes"};
  }
  std::string data(extent.bytes, '\0');
  // SAFETY: a string's bytes, as bytes.
  const std::span out(reinterpret_cast<std::uint8_t*>(data.data()), data.size());
  POSTERN_TRY(read_exactly(fd, extent.offset, out, "reading an object"));
  return data;
}

std::string uuid_text(std::span<const std::uint8_t, kUuidBytes> id) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < id.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) {
      text += '-';
    }
    text += kHex[id[i] >> 4];
    text += kHex[id[i] & 0xf];
  }
  return text;
}

}  // namespace postern::sif
