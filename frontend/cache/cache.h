// The user's cache of downloaded and converted images: content-addressed, shared by processes.
//
// An entry appears under its name in one step, whole, or not at all. While it is made, a file
// "tmp_NAME" beside it is locked (flock(2)): other processes that want the same entry wait for it
// instead of fetching it too, and what a killed process left in that file is taken up again.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::cache {

enum class Type : std::uint8_t { kBlob, kLibrary, kOciTmp, kShub, kOras, kIpfs, kNet };
inline constexpr std::size_t kTypes = 7;

std::string_view name_of(Type type);
// False: no such type.
bool parse_type(std::string_view name, Type& out);

// Whether an entry's bytes are those that were stored: by size and time, which are noted with it.
enum class State : std::uint8_t {
  kUnchanged,
  kChanged,
  kUnknown
};  // the file system keeps no notes

// The cure if an entry cannot be written.
inline constexpr const char* kElsewhere =
    "choose another place for the cache with POSTERN_CACHEDIR (APPTAINER_CACHEDIR), empty it with "
    "postern cache clean, or add --disable-cache";

// An entry that is there, or the right to make it.
class Claim {
 public:
  Claim(Claim&& other) noexcept;
  Claim& operator=(Claim&&) = delete;
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim();  // an entry that was not finished stays in its tmp_ file, to be taken up again

  // The entry is there: nothing is to be made.
  [[nodiscard]] bool ready() const noexcept { return ready_; }

  // The entry, or the locked file that becomes it.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  // The entry's path, whether or not it is there yet.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  // Bytes in fd().
  [[nodiscard]] Outcome<std::uint64_t> size() const;

  // What to say if the file system refuses to write the entry.
  [[nodiscard]] Problem unwritable(int err) const;

  // The locked file becomes the entry. After an error it is gone.
  Outcome<> commit();
  // Something else has put the entry in its place; the locked file goes away.
  Outcome<> commit_in_place();
  // What was begun is worth nothing.
  void discard();

  [[nodiscard]] State state() const;
  // Notes size and time of the bytes as they are now.
  void mark() const;
  // Takes a bad entry away, and becomes the right to make it anew.
  Outcome<> replace();

 private:
  friend class Cache;

  Claim(UniqueFd fd, std::string path, std::string partial, bool ready)
      : fd_(std::move(fd)), path_(std::move(path)), partial_(std::move(partial)), ready_(ready) {}

  UniqueFd fd_;
  std::string path_;
  std::string partial_;  // of the locked file; empty when it is gone
  bool ready_;
  std::function<bool()> cancelled_;
};

struct Entry {
  std::string name;
  std::string path;
  std::uint64_t bytes = 0;
  std::int64_t modified = 0;  // seconds since 1970
  bool unfinished = false;    // a tmp_ file
};

class Cache {
 public:
  // Below POSTERN_CACHEDIR (APPTAINER_, SINGULARITY_), else the user's configuration directory.
  // Makes what is missing, mode 0700. A place that cannot be written turns the cache off, with a
  // warning. Error: a place that cannot be made.
  static Outcome<Cache> open(bool disabled, std::function<bool()> cancelled = {});

  [[nodiscard]] bool enabled() const noexcept { return !root_.empty(); }

  [[nodiscard]] std::string directory(Type type) const;

  // Waits while another process makes the same entry. Needs enabled(). Error: `key` is no file
  // name (keys come from servers), or the file system refuses.
  Outcome<Claim> claim(Type type, const std::string& key) const;

  [[nodiscard]] std::vector<Entry> entries(Type type) const;
  Outcome<> remove(const Entry& entry) const;

 private:
  Cache() = default;

  std::string root_;
  std::function<bool()> cancelled_;
};

// The directory in which "cache" is. Error: no home directory is known.
Outcome<std::string> parent_directory();

}  // namespace postern::cache
