// Reading a SIF file. Nothing in the file is believed: every offset, size and count is checked
// before it is used, nothing is allocated by a number that the file names without a bound of ours,
// and each byte is read once (policy/snapshot/snapshot.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "policy/problem.h"
#include "policy/sif/format.h"
#include "policy/snapshot/snapshot.h"

namespace postern::sif {

struct Header {
  std::string launch;         // without the NUL padding; may be empty
  Architecture architecture;  // of the primary partition when the writer was honest: only a hint
  std::array<std::uint8_t, kUuidBytes> id;
  std::int64_t created;  // Unix seconds, kNoTime = none
  std::int64_t modified;
  std::int64_t free;          // as stored; nothing relies on it
  std::int64_t total;         // 0 … kMaxCapacity
  std::int64_t table_offset;  // ≥ kHeaderBytes; the whole table is inside the file
  std::int64_t table_bytes;   // ≥ total × kDescriptorBytes
  std::int64_t data_offset;   // as stored: readers do not need it
  std::int64_t data_bytes;
};

struct PartitionInfo {
  FileSystem fs;
  PartitionType type;
  Architecture architecture;
};

struct SignatureInfo {
  HashType hash;                                            // values outside HashType are kept
  std::array<std::uint8_t, kFingerprintBytes> fingerprint;  // of the primary key; all zero = none
};

struct MessageInfo {
  MessageFormat format;
  MessageType type;
};

struct SbomInfo {
  SbomFormat format;
};

struct OciInfo {
  std::string digest;  // text up to the first NUL; not checked
};

// Which alternative is present follows from the data type alone. Enumerations keep values that
// are outside their tables (name_of says "Unknown").
using Extra =
    std::variant<std::monostate, PartitionInfo, SignatureInfo, MessageInfo, SbomInfo, OciInfo>;

struct Descriptor {
  DataType type;  // values outside DataType are legal and kept
  std::uint32_t id;
  std::uint32_t group;  // without the mask; 0 = no group
  std::uint32_t link;   // without the mask; 0 = none
  bool link_is_group;
  std::uint32_t raw_group;  // as stored: signatures compare and hash these
  std::uint32_t raw_link;
  std::int64_t offset;  // bytes; checked against the file only by extent_of()
  std::int64_t size;
  std::int64_t padded_size;
  std::int64_t created;
  std::int64_t modified;
  std::int64_t uid;
  std::int64_t gid;
  std::string name;  // without trailing NULs; inner NULs and control characters are kept
  Extra extra;
  std::size_t slot;                                // index in the table
  std::array<std::uint8_t, kDescriptorBytes> raw;  // the stored bytes, for hashing

  // Null where the data type is another one.
  [[nodiscard]] const PartitionInfo* partition() const noexcept {
    return std::get_if<PartitionInfo>(&extra);
  }

  [[nodiscard]] const SignatureInfo* signature() const noexcept {
    return std::get_if<SignatureInfo>(&extra);
  }

  [[nodiscard]] const MessageInfo* message() const noexcept {
    return std::get_if<MessageInfo>(&extra);
  }
};

using postern::Extent;

class Image {
 public:
  [[nodiscard]] const Header& header() const noexcept { return header_; }

  // The 128 stored bytes, for hashing.
  [[nodiscard]] std::span<const std::uint8_t, kHeaderBytes> raw_header() const noexcept {
    return raw_header_;
  }

  // Used slots, in table order.
  [[nodiscard]] const std::vector<Descriptor>& descriptors() const noexcept { return descriptors_; }

  // When the table was read.
  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return file_bytes_; }

  // Errors: id 0; no such object; several objects with that id.
  [[nodiscard]] Outcome<const Descriptor*> object(std::uint32_t id) const;
  // Errors: none, or several partitions of type kPrimarySystem.
  [[nodiscard]] Outcome<const Descriptor*> primary_partition() const;
  // Objects whose masked group is `group`, in table order; empty for group 0 and unknown groups.
  [[nodiscard]] std::vector<const Descriptor*> group(std::uint32_t group) const;
  // Masked non-zero groups that occur, ascending.
  [[nodiscard]] std::vector<std::uint32_t> groups() const;
  // First object of this type and name, or null.
  [[nodiscard]] const Descriptor* find(DataType type, std::string_view name) const noexcept;
  // Where the object's bytes are. Error: they are not inside the file.
  [[nodiscard]] Outcome<Extent> extent_of(const Descriptor& descriptor) const;

 private:
  friend Outcome<Image> read(Snapshot& bytes);
  friend class Writer;  // shows what an image will be

  Header header_{};
  std::array<std::uint8_t, kHeaderBytes> raw_header_{};
  std::vector<Descriptor> descriptors_;
  std::uint64_t file_bytes_ = 0;
};

// Reads header and table of a regular file. Errors: not a regular file, wrong magic or
// version, a table that is not inside the file or is larger than kMaxCapacity.
Outcome<Image> read(Snapshot& bytes);

// Decodes the stored header: kHeaderBytes bytes, of which nothing is believed yet.
Header decode_header(std::span<const std::uint8_t> raw);

// Decodes one stored slot of kDescriptorBytes bytes.
Descriptor decode_descriptor(std::span<const std::uint8_t> raw, std::size_t slot);

// One object's bytes, at most `max_bytes` of them (an object that is larger is an error). `bytes`
// is what `image` was read from.
Outcome<std::string> read_object(Snapshot& bytes,
                                 const Image& image,
                                 const Descriptor& descriptor,
                                 std::uint64_t max_bytes);

// "73e1c5c3-5c41-41ed-ad7c-2504d669f140".
std::string uuid_text(std::span<const std::uint8_t, kUuidBytes> id);

}  // namespace postern::sif
