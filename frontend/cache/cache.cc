#include "frontend/cache/cache.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "frontend/net/credentials.h"
#include "frontend/system/safe_directory.h"
#include "policy/write_problem.h"

namespace postern::cache {
namespace {

constexpr std::array<std::string_view, kTypes> kNames = {"blob", "library", "oci-tmp", "shub",
                                                         "oras", "ipfs",    "net"};
constexpr std::string_view kPartial = "tmp_";
constexpr const char* kMark = "user.postern.cache";
constexpr std::size_t kMaxKey = 200;
constexpr auto kPoll = std::chrono::milliseconds(50);

bool is_file_name(std::string_view key) {
  return !key.empty() && key.size() <= kMaxKey && key.front() != '.' &&
         !key.starts_with(kPartial) && std::all_of(key.begin(), key.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-' || c == ':';
         });
}

Problem cannot_write(const std::string& path, int error) {
  return write_problem("writing '" + path + "' in the cache", error, kElsewhere);
}

Outcome<> make_directory(const std::string& path) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) {
      // A directory above that cannot be written but is there: mkdir(2) may say EACCES or EROFS.
      struct stat status{};
      const int error = errno;
      if (::stat(part.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
        return cannot_write(part + "/", error);
      }
    }
    if (slash == std::string::npos) {
      return Ok{};
    }
  }
}

bool same_file(int fd, const std::string& path) {
  struct stat open{};
  struct stat named{};
  return ::fstat(fd, &open) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

// "size:seconds.nanoseconds" of a file.
std::string state_of(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) {
    return {};
  }
  return std::to_string(status.st_size) + ":" + std::to_string(status.st_mtim.tv_sec) + "." +
         std::to_string(status.st_mtim.tv_nsec);
}

UniqueFd open_entry(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status{};
  if (fd.valid() && (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode))) {
    fd.reset();
  }
  return fd;
}

// The right to make an entry, waited for. An invalid descriptor: the entry came into being.
class Waiting {
 public:
  Waiting(std::string path, std::string partial, const std::function<bool()>& cancelled)
      : path_(std::move(path)), partial_(std::move(partial)), cancelled_(cancelled) {}

  Outcome<UniqueFd> lock() {
    while (true) {
      UniqueFd fd(
          ::open(partial_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
      if (!fd.valid()) {
        return cannot_write(partial_, errno);
      }
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) {
          continue;
        }
        if (errno != EWOULDBLOCK) {
          return without_lock();
        }
        POSTERN_TRY(wait(fd.get()));
        if (::access(path_.c_str(), F_OK) == 0) {
          return UniqueFd();
        }
        continue;
      }
      // The former holder may have renamed or removed the file between open and flock.
      if (same_file(fd.get(), partial_)) {
        return fd;
      }
    }
  }

  [[nodiscard]] const std::string& partial() const { return partial_; }

 private:
  // COMPAT: file systems that know no locks (some NFS and FUSE): a name of one's own, and the work
  // may be done twice.
  Outcome<UniqueFd> without_lock() {
    message::verbose(
        "the cache's file system knows no locks: another process may do this work too");
    partial_ += ".XXXXXX";
    UniqueFd fd(::mkostemp(partial_.data(), O_CLOEXEC));
    return fd.valid() ? Outcome<UniqueFd>(std::move(fd)) : cannot_write(partial_, errno);
  }

  Outcome<> wait(int fd) {
    if (cancelled_ && cancelled_()) {
      return Problem{.what = "interrupted"};
    }
    if (!said_) {
      said_ = true;
      message::info("Waiting for another process that fetches the same image");
    }
    struct stat status{};
    if (::fstat(fd, &status) == 0 && status.st_size > 0) {
      progress_.set(static_cast<std::uint64_t>(status.st_size));
    }
    std::this_thread::sleep_for(kPoll);
    return Ok{};
  }

  std::string path_;
  std::string partial_;
  const std::function<bool()>& cancelled_;
  message::Progress progress_{"Waiting  ", 0};
  bool said_ = false;
};

// The file of a process that was killed when the entry had its name already.
void remove_abandoned(const std::string& partial) {
  const UniqueFd fd(::open(partial.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (fd.valid() && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0 && same_file(fd.get(), partial)) {
    ::unlink(partial.c_str());
  }
}

}  // namespace

std::string_view name_of(Type type) {
  return kNames[static_cast<std::size_t>(type)];
}

bool parse_type(std::string_view name, Type& out) {
  const auto* found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    return false;
  }
  out = static_cast<Type>(found - kNames.begin());
  return true;
}

// ---- Claim

Claim::Claim(Claim&& other) noexcept
    : fd_(std::move(other.fd_)),
      path_(std::move(other.path_)),
      partial_(std::exchange(other.partial_, {})),
      ready_(other.ready_),
      cancelled_(std::move(other.cancelled_)) {}

Claim::~Claim() {
  struct stat status{};
  // Empty, it is worth nothing to whoever comes next.
  if (!partial_.empty() && ::fstat(fd_.get(), &status) == 0 && status.st_size == 0) {
    discard();
  }
}

Outcome<std::uint64_t> Claim::size() const {
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) {
    return system_problem("looking at '" + path_ + "'", errno);
  }
  return static_cast<std::uint64_t>(status.st_size);
}

Problem Claim::unwritable(int err) const {
  return cannot_write(path_, err);
}

Outcome<> Claim::commit() {
  bool done = ::fchmod(fd_.get(), 0700) == 0 && ::fsync(fd_.get()) == 0;
  if (done) {
    mark();
    done = ::rename(partial_.c_str(), path_.c_str()) == 0;
  }
  if (!done) {
    const int error = errno;
    // After fsync(2) has failed once, a second one says nothing of these bytes.
    discard();
    return cannot_write(path_, error);
  }
  partial_.clear();
  ready_ = true;
  return Ok{};
}

Outcome<> Claim::commit_in_place() {
  UniqueFd made = open_entry(path_);
  if (!made.valid()) {
    return cannot_write(path_, errno);
  }
  discard();
  fd_ = std::move(made);  // the lock goes with the old one
  mark();
  ready_ = true;
  return Ok{};
}

void Claim::discard() {
  if (!partial_.empty()) {
    ::unlink(partial_.c_str());  // while locked: nobody else has begun on it
    partial_.clear();
  }
}

State Claim::state() const {
  std::array<char, 128> text{};
  const ssize_t length = ::fgetxattr(fd_.get(), kMark, text.data(), text.size());
  if (length <= 0) {
    return State::kUnknown;
  }
  return std::string_view(text.data(), static_cast<std::size_t>(length)) == state_of(fd_.get())
             ? State::kUnchanged
             : State::kChanged;
}

void Claim::mark() const {
  const std::string state = state_of(fd_.get());
  if (::fsetxattr(fd_.get(), kMark, state.data(), state.size(), 0) != 0) {
    message::debug("the cache's file system keeps no marks: entries are checked at each use");
  }
}

Outcome<> Claim::replace() {
  const std::size_t slash = path_.rfind('/') + 1;
  const std::string partial = path_.substr(0, slash) + std::string(kPartial) + path_.substr(slash);
  Waiting waiting("/nonexistent", partial, cancelled_);  // the entry that is there does not count
  POSTERN_TRY_ASSIGN(UniqueFd fd, waiting.lock());
  if (same_file(fd_.get(), path_) && ::unlink(path_.c_str()) != 0) {
    return cannot_write(path_, errno);
  }
  if (UniqueFd other = open_entry(path_); other.valid()) {
    ::unlink(waiting.partial().c_str());  // another process has put a new one there meanwhile
    fd_ = std::move(other);
    return Ok{};
  }
  fd_ = std::move(fd);
  partial_ = waiting.partial();
  ready_ = false;
  return Ok{};
}

// ---- Cache

Outcome<std::string> parent_directory() {
  if (std::string path = net::variable("CACHEDIR"); !path.empty()) {
    return path;
  }
  return net::configuration_directory();
}

Outcome<Cache> Cache::open(bool disabled, std::function<bool()> cancelled) {
  Cache out;
  out.cancelled_ = std::move(cancelled);
  if (disabled) {
    return out;
  }
  const auto parent = parent_directory();
  if (!parent) {
    message::warning("Cache disabled - " + parent.error().what);
    return out;
  }
  const std::string root = *parent + "/cache";
  if (const auto safe = system::check_safe_to_make(root); !safe) {
    message::warning("Cache disabled - " + safe.error().what);
    return out;
  }
  POSTERN_TRY(make_directory(root));
  for (std::size_t i = 0; i < kTypes; ++i) {
    out.root_ = root;
    const std::string directory = out.directory(static_cast<Type>(i));
    const auto made = make_directory(directory);
    if (!made || ::access(directory.c_str(), W_OK | X_OK) != 0) {
      message::warning("Cache disabled - cache location " + root + " is not writable.");
      out.root_.clear();
      return out;
    }
  }
  // An entry is run as it lies there: whoever else may write it decides what runs.
  struct stat status{};
  if (::stat(root.c_str(), &status) != 0 || status.st_uid != ::geteuid()) {
    message::warning("Cache disabled - cache location " + root + " belongs to another user.");
    out.root_.clear();
    return out;
  }
  if (::chmod(root.c_str(), 0700) != 0) {
    return write_problem("closing '" + root + "' to others", errno, kElsewhere);
  }
  return out;
}

std::string Cache::directory(Type type) const {
  return root_ + "/" + std::string(name_of(type)) + (type == Type::kBlob ? "/blobs/sha256" : "");
}

Outcome<Claim> Cache::claim(Type type, const std::string& key) const {
  if (!is_file_name(key)) {
    return Problem{.what = "'" + key.substr(0, 100) + "' cannot name an entry of the cache"};
  }
  const std::string directory_path = directory(type) + "/";
  const std::string path = directory_path + key;
  Waiting waiting(path, directory_path + std::string(kPartial) + key, cancelled_);
  while (true) {
    if (UniqueFd there = open_entry(path); there.valid()) {
      remove_abandoned(waiting.partial());
      Claim out(std::move(there), path, {}, true);
      out.cancelled_ = cancelled_;
      return out;
    }
    POSTERN_TRY_ASSIGN(UniqueFd fd, waiting.lock());
    if (!fd.valid()) {
      continue;
    }
    Claim out(std::move(fd), path, waiting.partial(), false);
    out.cancelled_ = cancelled_;
    // It was finished between the first look and the lock; or something lies there that is no
    // entry.
    if (open_entry(path).valid()) {
      out.discard();
      continue;
    }
    struct stat status{};
    if (::lstat(path.c_str(), &status) == 0 && ::unlink(path.c_str()) != 0) {
      return system_problem("removing '" + path + "', which is no entry of the cache", errno,
                            "remove it, or choose another place with POSTERN_CACHEDIR");
    }
    return out;
  }
}

std::vector<Entry> Cache::entries(Type type) const {
  std::vector<Entry> out;
  const std::string place = directory(type);
  DIR* const open = enabled() ? ::opendir(place.c_str()) : nullptr;
  if (open == nullptr) {
    return out;
  }
  while (const dirent* item = ::readdir(open)) {  // NOLINT(concurrency-mt-unsafe): own stream
    Entry entry{.name = item->d_name};
    entry.path = place + "/" + entry.name;
    struct stat status{};
    if (entry.name == "." || entry.name == ".." || ::lstat(entry.path.c_str(), &status) != 0 ||
        S_ISDIR(status.st_mode)) {
      continue;
    }
    entry.bytes = static_cast<std::uint64_t>(status.st_size);
    entry.modified = status.st_mtim.tv_sec;
    entry.unfinished = entry.name.starts_with(kPartial);
    out.push_back(std::move(entry));
  }
  ::closedir(open);
  std::sort(out.begin(), out.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return out;
}

Outcome<> Cache::remove(const Entry& entry) const {
  if (entry.unfinished) {
    const UniqueFd fd(::open(entry.path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd.valid() && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return Problem{.what = "another process is writing '" + entry.path + "'"};
    }
    return ::unlink(entry.path.c_str()) == 0 || errno == ENOENT
               ? Outcome<>()
               : system_problem("removing '" + entry.path + "'", errno);
  }
  return ::unlink(entry.path.c_str()) == 0 || errno == ENOENT
             ? Outcome<>()
             : system_problem("removing '" + entry.path + "'", errno);
}

}  // namespace postern::cache
