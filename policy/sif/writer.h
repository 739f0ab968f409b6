// Making and changing SIF files.
//
// A new image is written under no name at all (O_TMPFILE, else a temporary name beside the target)
// and appears under its own name in finish(), whole, replacing what was there. A present image is
// changed in place under a lock. All that is added, removed and changed takes effect at once, in
// finish(): at every instant, and whatever part of the writes reaches the disk, the image reads
// either as before or as after. Without finish() it stays as it was.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>

#include "policy/path/fresh_file.h"
#include "policy/problem.h"
#include "policy/sif/format.h"
#include "policy/sif/reader.h"
#include "protocol/base/unique_fd.h"

namespace postern::sif {

struct CreateOptions {
  std::string launch{kLaunchScript};  // at most kMaxLaunchText bytes
  mode_t mode = 0755;                 // less the umask; the execute bit makes ./image.sif work
  std::int64_t capacity = kDefaultCapacity;
  // Nil id and no times: the same input gives the same bytes (what SOURCE_DATE_EPOCH asks for).
  // Later changes of such an image write no times either.
  bool deterministic = false;
  std::string elsewhere = "choose another place";  // the cure if it cannot be written there
};

// What the new object says about itself. `data` of an object is given to add() or written between
// begin() and end().
struct ObjectInput {
  DataType type = DataType::kGeneric;
  std::string name = {};    // at most kNameBytes
  std::uint32_t group = 1;  // 0 = no group
  std::uint32_t link = 0;   // 0 = none
  bool link_is_group = false;
  std::optional<std::int64_t> alignment =
      {};            // default: kPartitionAlignment for partitions, else none
  Extra extra = {};  // must fit the type; OCI objects get their digest by end()
};

class Writer {
 public:
  // Starts a new image that finish() will place at `path`. Errors: launch script or capacity out
  // of bounds; the directory is not writable.
  static Outcome<Writer> create(const std::string& path, const CreateOptions& options);

  // Opens a present image for changes and locks it until the Writer is gone. Errors: not a SIF;
  // objects that overlap each other, the table or the header; someone else holds a lock.
  static Outcome<Writer> open(const std::string& path);

  Writer(Writer&& other) noexcept;
  Writer& operator=(Writer&&) = delete;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer();  // without finish(), nothing is left behind

  // Adds an object with these bytes, or with everything that `source` yields up to its end.
  // Returns its id. Errors: table full, second primary partition, name or extra too long…
  Outcome<std::uint32_t> add(const ObjectInput& input, std::string_view bytes);
  Outcome<std::uint32_t> add(const ObjectInput& input, int source);

  // For producers that write into the image themselves: begin() returns the offset where the data
  // starts; write to fd() there with pwrite(2); end() takes the number of bytes. Nothing is
  // recorded before end(), and only one object can be begun at a time.
  Outcome<std::uint64_t> begin(const ObjectInput& input);
  Outcome<std::uint32_t> end(std::uint64_t bytes);

  [[nodiscard]] int fd() const noexcept { return fresh_ ? fresh_->fd() : changed_file_.get(); }

  // Frees the object's slot; other objects neither move nor change their ids. Error: no such id.
  Outcome<> remove(std::uint32_t id);

  // Makes a system partition the primary one; the present primary becomes a plain system partition.
  // Errors: not a partition, or a data or overlay partition. Already primary: nothing is written.
  Outcome<> set_primary(std::uint32_t id);

  // Brings everything to disk; a new image gets its name, and its Writer can only be destroyed
  // after. Changes of a present image may go on, up to the next finish().
  Outcome<> finish();

  // Objects as finish() will leave them, used slots in table order.
  [[nodiscard]] std::vector<Descriptor> descriptors() const;

  // The image as finish() will leave it; data is read from fd(). Only for a present image.
  [[nodiscard]] Outcome<Image> image() const;

 private:
  using RawDescriptor = std::array<std::uint8_t, kDescriptorBytes>;

  struct Begun {
    std::size_t slot;
    std::uint64_t offset;
    std::uint64_t gap;  // alignment bytes before the object
    RawDescriptor raw;
  };

  Writer() = default;

  static constexpr std::int64_t kNothingToTakeBack = -1;

  [[nodiscard]] Problem unwritable(int err) const;
  Outcome<> write_exactly(std::int64_t offset, std::span<const std::uint8_t> bytes) const;
  Outcome<> sync() const;
  // All of `source` up to its end. Returns the number of bytes.
  Outcome<std::uint64_t> copy_all(int source, std::int64_t offset) const;
  void set_slot(std::size_t slot, const RawDescriptor& raw);
  void count_free();
  Outcome<> remember_size();
  Outcome<> write_table(std::int64_t offset);
  Outcome<> put_table(std::int64_t offset);
  Outcome<> commit();
  Outcome<std::int64_t> data_end() const;
  [[nodiscard]] std::int64_t now() const;
  [[nodiscard]] bool used(std::size_t slot) const noexcept;
  Outcome<std::size_t> slot_of(std::uint32_t id) const;
  [[nodiscard]] std::optional<std::size_t> primary_slot() const;

  UniqueFd changed_file_;                 // when changing in place
  std::optional<path::FreshFile> fresh_;  // else
  std::string name_ = "the image";        // for messages
  std::string elsewhere_ = "work on a copy in another place";
  bool deterministic_ = false;
  bool changed_ = false;
  std::int64_t committed_end_ = 0;                  // of what the file's own table names
  std::int64_t bytes_before_ = kNothingToTakeBack;  // the file's size before the first change
  std::array<std::uint8_t, kHeaderBytes> header_{};
  std::vector<RawDescriptor> table_;
  std::optional<Begun> begun_;
};

}  // namespace postern::sif
