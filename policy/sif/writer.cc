#include "policy/sif/writer.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <limits>
#include <utility>

#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/path/open_for_change.h"
#include "policy/sif/bytes.h"
#include "policy/sif/read_exactly.h"
#include "policy/sif/sha256.h"
#include "policy/text/hex.h"
#include "policy/write_problem.h"

namespace postern::sif {
namespace {

constexpr std::int64_t kMaxOffset = std::numeric_limits<std::int64_t>::max();

std::span<const std::uint8_t> as_bytes(std::string_view text) {
  // SAFETY: characters, as bytes.
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

// One writer at a time, and nobody who holds a read lock on a part of it (a mounted overlay
// partition). Open-file-description locks: they work across threads and are not dropped when
// another descriptor of the file is closed.
Outcome<> lock(int fd) {
  struct flock all{};
  all.l_type = F_WRLCK;
  all.l_whence = SEEK_SET;
  if (::fcntl(fd, F_OFD_SETLK, &all) == 0) {
    return Ok{};
  }
  if (errno == EAGAIN || errno == EACCES) {
    return Problem{.what = "the image is in use by another process",
                   .cure = "wait until it has ended, or work on a copy"};
  }
  // Parallel file systems mounted without lock support: there is nothing to take a lock from.
  if (errno == ENOSYS || errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL) {
    return Ok{};
  }
  return system_problem("locking the image", errno);
}

std::array<std::uint8_t, kUuidBytes> random_uuid() {
  std::array<std::uint8_t, kUuidBytes> id{};
  POSTERN_CHECK(::getrandom(id.data(), id.size(), 0) == ssize_t(id.size()));
  id[6] = static_cast<std::uint8_t>((id[6] & 0x0f) | 0x40);  // RFC 4122: version 4
  id[8] = static_cast<std::uint8_t>((id[8] & 0x3f) | 0x80);  // and variant 1
  return id;
}

struct Encoder {
  std::span<std::uint8_t> raw;
  DataType type;

  Outcome<> operator()(const std::monostate& /*none*/) const {
    const bool needs = type == DataType::kPartition || type == DataType::kSignature ||
                       type == DataType::kCryptoMessage || type == DataType::kSbom;
    return needs ? wrong() : Outcome<>{};
  }

  Outcome<> operator()(const PartitionInfo& info) const {
    if (type != DataType::kPartition) {
      return wrong();
    }
    store(raw, kExtraAt, static_cast<std::int32_t>(info.fs));
    store(raw, kExtraAt + 4, static_cast<std::int32_t>(info.type));
    const auto code = architecture_code(info.architecture);
    std::copy(code.begin(), code.end(), raw.begin() + kExtraAt + 8);
    return Ok{};
  }

  Outcome<> operator()(const SignatureInfo& info) const {
    if (type != DataType::kSignature) {
      return wrong();
    }
    store(raw, kExtraAt, static_cast<std::int32_t>(info.hash));
    std::copy(info.fingerprint.begin(), info.fingerprint.end(), raw.begin() + kExtraAt + 4);
    return Ok{};
  }

  Outcome<> operator()(const MessageInfo& info) const {
    if (type != DataType::kCryptoMessage) {
      return wrong();
    }
    store(raw, kExtraAt, static_cast<std::int32_t>(info.format));
    store(raw, kExtraAt + 4, static_cast<std::int32_t>(info.type));
    return Ok{};
  }

  Outcome<> operator()(const SbomInfo& info) const {
    if (type != DataType::kSbom) {
      return wrong();
    }
    store(raw, kExtraAt, static_cast<std::int32_t>(info.format));
    return Ok{};
  }

  Outcome<> operator()(const OciInfo& /*digest*/) const { return wrong(); }  // computed by end()

  static Problem wrong() {
    return Problem{.what = "the object's description does not fit its data type"};
  }
};

// Everything of a new slot but offset, size and times.
Outcome<> encode(const ObjectInput& input, std::uint32_t id, std::span<std::uint8_t> raw) {
  if (input.name.size() > kNameBytes) {
    return Problem{.what = "the object's name is longer than 128 bytes"};
  }
  if ((input.group & kGroupMask) != 0 || (input.link & kGroupMask) != 0) {
    return Problem{.what = "group and link numbers end at 268435455"};
  }
  store(raw, kTypeAt, static_cast<std::int32_t>(input.type));
  raw[kUsedAt] = 1;
  store(raw, kIdAt, id);
  store(raw, kGroupAt, input.group | kGroupMask);
  store(raw, kLinkAt,
        input.link_is_group && input.link != 0 ? input.link | kGroupMask : input.link);
  std::copy(input.name.begin(), input.name.end(), raw.begin() + kNameAt);
  return std::visit(Encoder{.raw = raw, .type = input.type}, input.extra);
}

// OCI objects carry the digest of their own bytes, in the extra area.
Outcome<> store_digest(int fd,
                       std::uint64_t offset,
                       std::uint64_t bytes,
                       std::span<std::uint8_t> raw) {
  std::vector<std::uint8_t> buffer(1 << 20);
  Sha256 hash;
  while (bytes > 0) {
    const std::span part = std::span(buffer).first(
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), bytes)));
    POSTERN_TRY(read_exactly(fd, offset, part, "reading the object back"));
    hash.update(part);
    offset += part.size();
    bytes -= part.size();
  }
  const std::string digest = "sha256:" + text::to_hex(hash.finish());
  std::copy(digest.begin(), digest.end(), raw.begin() + kExtraAt);
  return Ok{};
}

// Where the table lies when no change is under way: before the data area.
std::int64_t home_of_table(const Header& h) {
  const std::int64_t bytes = h.total * std::int64_t(kDescriptorBytes);
  return h.table_offset <= h.data_offset - bytes
             ? h.table_offset
             : std::min(kDefaultTableOffset, h.data_offset - bytes);
}

// Objects must lie behind the table and inside the file, and not on one another: otherwise "after
// the last object" is not a free place. A change that was interrupted leaves the table behind the
// objects (Writer::commit).
Outcome<> check_layout(const Image& image) {
  const Header& h = image.header();
  const std::int64_t home = home_of_table(h);
  const std::int64_t table_end = home + h.total * std::int64_t(kDescriptorBytes);
  const auto refuse = [](const std::string& why) {
    return Problem{.what = "the image cannot be changed: " + why,
                   .cure = "make a new image from it with `postern build`"};
  };
  if (home < std::int64_t(kHeaderBytes)) {
    return refuse("its data area overlaps its descriptor table");
  }
  // Old writers align the data area to the page, up to 64 KiB beyond an empty file's end.
  if (static_cast<std::uint64_t>(h.data_offset) > image.file_bytes() + 65536) {
    return refuse("its data area lies beyond the end of the file");
  }
  std::vector<std::pair<Extent, std::uint32_t>> extents;
  for (const Descriptor& d : image.descriptors()) {
    POSTERN_TRY_ASSIGN(const Extent extent, image.extent_of(d));
    const bool below_table =
        h.table_offset != home &&
        extent.offset + extent.bytes > static_cast<std::uint64_t>(h.table_offset);
    if (extent.bytes != 0 &&
        (extent.offset < static_cast<std::uint64_t>(table_end) || below_table)) {
      return refuse("object " + std::to_string(d.id) + " overlaps the descriptor table");
    }
    if (extent.bytes != 0) {
      extents.emplace_back(extent, d.id);
    }
  }
  std::sort(extents.begin(), extents.end(),
            [](const auto& a, const auto& b) { return a.first.offset < b.first.offset; });
  for (std::size_t i = 1; i < extents.size(); ++i) {
    const auto& [before, id] = extents[i - 1];
    if (before.offset + before.bytes > extents[i].first.offset) {
      return refuse("objects " + std::to_string(id) + " and " + std::to_string(extents[i].second) +
                    " overlap");
    }
  }
  return Ok{};
}

}  // namespace

Writer::Writer(Writer&& other) noexcept
    : changed_file_(std::move(other.changed_file_)),
      fresh_(std::move(other.fresh_)),
      name_(std::move(other.name_)),
      elsewhere_(std::move(other.elsewhere_)),
      deterministic_(other.deterministic_),
      changed_(other.changed_),
      committed_end_(other.committed_end_),
      bytes_before_(std::exchange(other.bytes_before_, kNothingToTakeBack)),
      header_(other.header_),
      table_(std::move(other.table_)),
      begun_(std::exchange(other.begun_, {})) {}

Writer::~Writer() {
  if (bytes_before_ != kNothingToTakeBack) {
    (void)!::ftruncate(fd(), bytes_before_);  // data that no descriptor names
  }
}

Problem Writer::unwritable(int err) const {
  return write_problem("writing " + name_, err, elsewhere_);
}

Outcome<> Writer::write_exactly(std::int64_t offset, std::span<const std::uint8_t> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd(), bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return unwritable(errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    offset += n;
  }
  return Ok{};
}

Outcome<> Writer::sync() const {
  if (::fdatasync(fd()) != 0) {
    return unwritable(errno);
  }
  return Ok{};
}

Outcome<std::uint64_t> Writer::copy_all(int source, std::int64_t offset) const {
  std::vector<std::uint8_t> buffer(1 << 20);
  std::uint64_t copied = 0;
  while (true) {
    const ssize_t n = ::read(source, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return system_problem("reading the object's data", errno);
    }
    if (n == 0) {
      return copied;
    }
    if (offset > kMaxOffset - n) {
      return Problem{.what = "the object is too large for a SIF image"};
    }
    POSTERN_TRY(write_exactly(offset, std::span(buffer).first(static_cast<std::size_t>(n))));
    offset += n;
    copied += static_cast<std::uint64_t>(n);
  }
}

Outcome<Writer> Writer::create(const std::string& path, const CreateOptions& options) {
  if (options.launch.size() > kMaxLaunchText) {
    return Problem{.what = "the launch script is longer than 31 bytes"};
  }
  if (options.capacity < 1 || options.capacity > kMaxCapacity) {
    return Problem{.what =
                       "the number of descriptors must be 1 to " + std::to_string(kMaxCapacity)};
  }
  POSTERN_TRY_ASSIGN(path::FreshFile file, path::FreshFile::create(path, options.mode));
  Writer w;
  w.fresh_.emplace(std::move(file));
  w.name_ = "'" + path + "'";
  w.elsewhere_ = options.elsewhere;
  w.deterministic_ = options.deterministic;
  w.table_.resize(static_cast<std::size_t>(options.capacity));
  const std::span<std::uint8_t> h = w.header_;
  std::copy(options.launch.begin(), options.launch.end(), h.begin() + kLaunchAt);
  std::copy(kMagic.begin(), kMagic.end(), h.begin() + kMagicAt);
  std::copy(kVersion.begin(), kVersion.end(), h.begin() + kVersionAt);
  const auto code = architecture_code(Architecture::kUnknown);
  std::copy(code.begin(), code.end(), h.begin() + kArchitectureAt);
  if (!options.deterministic) {
    const auto id = random_uuid();
    std::copy(id.begin(), id.end(), h.begin() + kUuidAt);
  }
  const std::int64_t table_bytes = options.capacity * std::int64_t(kDescriptorBytes);
  store(h, kCreatedAt, w.now());
  store(h, kModifiedAt, w.now());
  store(h, kFreeAt, options.capacity);
  store(h, kTotalAt, options.capacity);
  store(h, kTableOffsetAt, kDefaultTableOffset);
  store(h, kTableBytesAt, table_bytes);
  store(h, kDataOffsetAt, kDefaultTableOffset + table_bytes);
  store(h, kDataBytesAt, std::int64_t{0});
  if (::ftruncate(w.fd(), kDefaultTableOffset + table_bytes) != 0) {
    return w.unwritable(errno);
  }
  return w;
}

Outcome<Writer> Writer::open(const std::string& path) {
  Writer w;
  POSTERN_TRY_ASSIGN(w.changed_file_, path::open_for_change(path, O_RDWR | O_NONBLOCK));
  // ORDER: lock before reading, so that nobody changes what was read.
  POSTERN_TRY(lock(w.fd()));
  Snapshot bytes(w.fd());
  POSTERN_TRY_ASSIGN(const Image image, read(bytes));
  POSTERN_TRY(check_layout(image));
  std::copy(image.raw_header().begin(), image.raw_header().end(), w.header_.begin());
  w.table_.resize(static_cast<std::size_t>(image.header().total));
  for (const Descriptor& d : image.descriptors()) {
    w.table_[d.slot] = d.raw;
  }
  if (const std::int64_t home = home_of_table(image.header());
      home != image.header().table_offset) {
    POSTERN_TRY(w.put_table(home));  // the rest of a change that was interrupted
  }
  POSTERN_TRY_ASSIGN(w.committed_end_, w.data_end());
  const auto& id = image.header().id;
  w.deterministic_ = image.header().created == kNoTime &&
                     std::all_of(id.begin(), id.end(), [](std::uint8_t b) { return b == 0; });
  return w;
}

Outcome<Image> Writer::image() const {
  struct stat status{};
  if (::fstat(fd(), &status) != 0) {
    return system_problem("reading the image's size", errno);
  }
  Image image;
  image.file_bytes_ = static_cast<std::uint64_t>(status.st_size);
  image.raw_header_ = header_;
  image.header_ = decode_header(header_);
  image.descriptors_ = descriptors();
  return image;
}

std::int64_t Writer::now() const {
  return deterministic_ ? kNoTime : std::int64_t{::time(nullptr)};
}

bool Writer::used(std::size_t slot) const noexcept {
  return table_[slot][kUsedAt] != 0;
}

std::vector<Descriptor> Writer::descriptors() const {
  std::vector<Descriptor> all;
  for (std::size_t slot = 0; slot < table_.size(); ++slot) {
    if (used(slot)) {
      all.push_back(decode_descriptor(table_[slot], slot));
    }
  }
  return all;
}

Outcome<std::size_t> Writer::slot_of(std::uint32_t id) const {
  std::optional<std::size_t> found;
  for (std::size_t slot = 0; slot < table_.size(); ++slot) {
    if (used(slot) && load<std::uint32_t>(table_[slot], kIdAt) == id) {
      if (found) {
        return Problem{.what = "several objects have the id " + std::to_string(id)};
      }
      found = slot;
    }
  }
  if (!found || id == 0) {
    return Problem{.what = "the image has no object " + std::to_string(id),
                   .cure = "`sif list` shows the ids"};
  }
  return *found;
}

std::optional<std::size_t> Writer::primary_slot() const {
  for (std::size_t slot = 0; slot < table_.size(); ++slot) {
    if (!used(slot)) {
      continue;
    }
    const Descriptor d = decode_descriptor(table_[slot], slot);
    const PartitionInfo* partition = d.partition();
    if (partition != nullptr && partition->type == PartitionType::kPrimarySystem) {
      return slot;
    }
  }
  return std::nullopt;
}

// max(data offset, end of the last used object), and no object that the file's table still names.
Outcome<std::int64_t> Writer::data_end() const {
  std::int64_t end = std::max(load<std::int64_t>(header_, kDataOffsetAt), committed_end_);
  for (std::size_t slot = 0; slot < table_.size(); ++slot) {
    if (!used(slot)) {
      continue;
    }
    const auto offset = load<std::int64_t>(table_[slot], kOffsetAt);
    const auto size = load<std::int64_t>(table_[slot], kSizeAt);
    if (offset < 0 || size < 0 || offset > kMaxOffset - size) {
      return Problem{.what = "an object's offset or size is out of range"};
    }
    end = std::max(end, offset + size);
  }
  return end;
}

Outcome<std::uint64_t> Writer::begin(const ObjectInput& input) {
  POSTERN_CHECK(!begun_);
  std::size_t slot = 0;
  while (slot < table_.size() && used(slot)) {
    ++slot;
  }
  if (slot == table_.size()) {
    return Problem{.what = "the image has no free descriptor",
                   .cure = "delete an object with `sif del`"};
  }
  Begun begun{};
  begun.slot = slot;
  POSTERN_TRY(encode(input, static_cast<std::uint32_t>(slot + 1), begun.raw));
  const auto* partition = std::get_if<PartitionInfo>(&input.extra);
  if (partition != nullptr && partition->type == PartitionType::kPrimarySystem && primary_slot()) {
    return Problem{.what = "the image has a primary partition already",
                   .cure = "add this one as a system partition and use `sif setprim`"};
  }
  POSTERN_TRY_ASSIGN(const std::int64_t end, data_end());
  const std::int64_t alignment =
      input.alignment.value_or(input.type == DataType::kPartition ? kPartitionAlignment : 0);
  std::int64_t gap = 0;
  if (alignment > 1 && end % alignment != 0) {
    gap = alignment - end % alignment;
  }
  if (end > kMaxOffset - gap) {
    return Problem{.what = "the alignment puts the object beyond the largest file offset"};
  }
  begun.offset = static_cast<std::uint64_t>(end + gap);
  begun.gap = static_cast<std::uint64_t>(gap);
  if (!fresh_) {
    POSTERN_TRY(remember_size());
    // What a deleted object left behind must not show between the objects. Sparse where possible.
    if (::ftruncate(fd(), end) != 0) {
      return unwritable(errno);
    }
  }
  begun_ = begun;
  return begun.offset;
}

Outcome<std::uint32_t> Writer::end(std::uint64_t bytes) {
  POSTERN_CHECK(begun_.has_value());
  Begun begun = *begun_;
  begun_.reset();
  if (bytes > static_cast<std::uint64_t>(kMaxOffset) - begun.offset) {
    return Problem{.what = "the object is too large for a SIF image"};
  }
  const auto size = static_cast<std::int64_t>(bytes);
  const auto padded = static_cast<std::int64_t>(begun.gap + bytes);
  const std::int64_t time = now();
  store(std::span(begun.raw), kOffsetAt, static_cast<std::int64_t>(begun.offset));
  store(std::span(begun.raw), kSizeAt, size);
  store(std::span(begun.raw), kPaddedSizeAt, padded);
  store(std::span(begun.raw), kObjectCreatedAt, time);
  store(std::span(begun.raw), kObjectModifiedAt, time);

  const std::span<std::uint8_t> h = header_;
  const auto before_gap = static_cast<std::int64_t>(begun.offset - begun.gap);
  store(h, kDataBytesAt, before_gap - load<std::int64_t>(header_, kDataOffsetAt) + padded);
  store(h, kModifiedAt, time);
  const Descriptor d = decode_descriptor(begun.raw, begun.slot);
  const PartitionInfo* partition = d.partition();
  if (partition != nullptr && partition->type == PartitionType::kPrimarySystem) {
    const auto code = architecture_code(partition->architecture);
    std::copy(code.begin(), code.end(), h.begin() + kArchitectureAt);
  }
  // An empty object, or one that ends in a hole, still makes the file reach to its end.
  struct stat status{};
  if (::fstat(fd(), &status) != 0) {
    return system_problem("reading the image's size", errno);
  }
  const auto object_end = static_cast<std::int64_t>(begun.offset + bytes);
  if (status.st_size != object_end && ::ftruncate(fd(), object_end) != 0) {
    return unwritable(errno);
  }
  if (d.type == DataType::kOciRootIndex || d.type == DataType::kOciBlob) {
    POSTERN_TRY(store_digest(fd(), begun.offset, bytes, begun.raw));
  }
  set_slot(begun.slot, begun.raw);
  count_free();
  return d.id;
}

Outcome<std::uint32_t> Writer::add(const ObjectInput& input, std::string_view bytes) {
  POSTERN_TRY_ASSIGN(const std::uint64_t offset, begin(input));
  const Outcome<> written = write_exactly(static_cast<std::int64_t>(offset), as_bytes(bytes));
  if (!written) {
    begun_.reset();
    return written.error();
  }
  return end(bytes.size());
}

Outcome<std::uint32_t> Writer::add(const ObjectInput& input, int source) {
  POSTERN_TRY_ASSIGN(const std::uint64_t offset, begin(input));
  const Outcome<std::uint64_t> copied = copy_all(source, static_cast<std::int64_t>(offset));
  if (!copied) {
    begun_.reset();
    return copied.error();
  }
  return end(*copied);
}

void Writer::set_slot(std::size_t slot, const RawDescriptor& raw) {
  table_[slot] = raw;
  changed_ = true;
}

// Counted, not carried on: the number in somebody else's header may be anything.
void Writer::count_free() {
  std::int64_t free = 0;
  for (std::size_t slot = 0; slot < table_.size(); ++slot) {
    free += used(slot) ? 0 : 1;
  }
  store(std::span<std::uint8_t>(header_), kFreeAt, free);
}

Outcome<> Writer::remove(std::uint32_t id) {
  POSTERN_TRY_ASSIGN(const std::size_t slot, slot_of(id));
  const std::optional<std::size_t> primary = primary_slot();
  set_slot(slot, RawDescriptor{});
  const std::span<std::uint8_t> h = header_;
  store(h, kModifiedAt, now());
  count_free();
  if (primary == slot) {
    const auto code = architecture_code(Architecture::kUnknown);
    std::copy(code.begin(), code.end(), h.begin() + kArchitectureAt);
  }
  return Ok{};
}

Outcome<> Writer::set_primary(std::uint32_t id) {
  POSTERN_TRY_ASSIGN(const std::size_t slot, slot_of(id));
  const Descriptor d = decode_descriptor(table_[slot], slot);
  const PartitionInfo* partition = d.partition();
  if (partition == nullptr) {
    return Problem{.what = "object " + std::to_string(id) + " is not a partition"};
  }
  if (partition->type == PartitionType::kPrimarySystem) {
    return Ok{};
  }
  if (partition->type != PartitionType::kSystem) {
    return Problem{.what = "object " + std::to_string(id) + " is not a system partition"};
  }
  const std::int64_t time = now();
  const auto retype = [&](std::size_t index, PartitionType type) {
    RawDescriptor raw = table_[index];
    store(std::span(raw), kExtraAt + 4, static_cast<std::int32_t>(type));
    store(std::span(raw), kObjectModifiedAt, time);
    set_slot(index, raw);
  };
  if (const std::optional<std::size_t> present = primary_slot()) {
    retype(*present, PartitionType::kSystem);
  }
  retype(slot, PartitionType::kPrimarySystem);
  const std::span<std::uint8_t> h = header_;
  const auto code = architecture_code(partition->architecture);
  std::copy(code.begin(), code.end(), h.begin() + kArchitectureAt);
  store(h, kModifiedAt, time);
  return Ok{};
}

Outcome<> Writer::remember_size() {
  struct stat status{};
  if (::fstat(fd(), &status) != 0) {
    return system_problem("reading the image's size", errno);
  }
  if (bytes_before_ == kNothingToTakeBack) {
    bytes_before_ = status.st_size;
  }
  return Ok{};
}

Outcome<> Writer::write_table(std::int64_t offset) {
  std::vector<std::uint8_t> bytes;
  bytes.reserve(table_.size() * kDescriptorBytes);
  for (const RawDescriptor& raw : table_) {
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  }
  return write_exactly(offset, bytes);
}

// ORDER: the table, and the data that it names, are on disk before the header that points to it.
// The header lies in one sector, so that it is on disk as before or as after, never in part.
Outcome<> Writer::put_table(std::int64_t offset) {
  POSTERN_TRY(write_table(offset));
  POSTERN_TRY(sync());
  store(std::span<std::uint8_t>(header_), kTableOffsetAt, offset);
  bytes_before_ = kNothingToTakeBack;
  POSTERN_TRY(write_exactly(0, header_));
  return sync();
}

// The header is what changes the image, in one step, whatever the number of objects that come and
// go: first to a new table behind everything, so that the old one stays whole until then; and then
// to the same table in its place before the data, where other programs look for it.
Outcome<> Writer::commit() {
  POSTERN_TRY(remember_size());
  struct stat status{};
  if (::fstat(fd(), &status) != 0) {
    return system_problem("reading the image's size", errno);
  }
  POSTERN_TRY_ASSIGN(const std::int64_t end, data_end());
  const std::int64_t last = std::max<std::int64_t>(end, status.st_size);
  if (last > kMaxOffset - kDefaultTableOffset) {
    return Problem{.what = "the image reaches to the largest file offset"};
  }
  const auto home = load<std::int64_t>(header_, kTableOffsetAt);
  const std::int64_t behind = (last / kDefaultTableOffset + 1) * kDefaultTableOffset;
  POSTERN_TRY(put_table(behind));
  POSTERN_TRY(put_table(home));
  if (::ftruncate(fd(), status.st_size) != 0) {
    return unwritable(errno);
  }
  changed_ = false;
  committed_end_ = 0;
  POSTERN_TRY_ASSIGN(committed_end_, data_end());
  return Ok{};
}

Outcome<> Writer::finish() {
  POSTERN_CHECK(!begun_);
  if (!fresh_) {
    return changed_ ? commit() : Ok{};
  }
  POSTERN_TRY(write_table(kDefaultTableOffset));
  POSTERN_TRY(write_exactly(0, header_));
  return fresh_->place();
}

}  // namespace postern::sif
