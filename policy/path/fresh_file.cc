#include "policy/path/fresh_file.h"

#include <cerrno>
#include <cstdint>
#include <utility>

#include <sys/random.h>
#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/path/open_for_change.h"
#include "policy/write_problem.h"
#include "protocol/base/check.h"

namespace postern::path {
namespace {

Problem cannot(const char* doing, const std::string& path, int error) {
  return write_problem(std::string(doing) + path, error, "choose another place");
}

std::string hidden_name(const std::string& target) {
  constexpr std::size_t kMostOfTarget = 200;  // NAME_MAX has room for the number then
  std::uint64_t number = 0;
  POSTERN_CHECK(::getrandom(&number, sizeof number, 0) == ssize_t(sizeof number));
  return "." + target.substr(0, kMostOfTarget) + "." + std::to_string(number);
}

}  // namespace

FreshFile::FreshFile(FreshFile&& other) noexcept
    : path_(std::move(other.path_)),
      directory_(std::move(other.directory_)),
      target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::move(other.fd_)) {}

FreshFile::~FreshFile() {
  if (!temporary_.empty()) {
    ::unlinkat(directory_.get(), temporary_.c_str(), 0);
  }
}

Outcome<FreshFile> FreshFile::create(const std::string& path, mode_t mode) {
  POSTERN_TRY_ASSIGN(NewFile place, place_of_new_file(path));
  if (place.name.empty()) {
    return Problem{.what = path + " is not a file name"};
  }
  FreshFile out;
  out.path_ = path;
  out.target_ = std::move(place.name);
  // Not O_PATH: it is brought to disk at the end.
  out.directory_ =
      UniqueFd(::openat(place.directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!out.directory_.valid()) {
    return system_problem("opening the directory of " + path, errno);
  }
  struct stat status{};
  if (::fstatat(out.directory_.get(), out.target_.c_str(), &status, 0) == 0 &&
      !S_ISREG(status.st_mode)) {
    return Problem{.what = path + " exists and is not a regular file"};
  }
  out.fd_ = UniqueFd(::openat(out.directory_.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode));
  // COMPAT: file systems without O_TMPFILE (NFS, Lustre, FUSE): open(2), ERRORS.
  if (!out.fd_.valid() && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    const std::string name = hidden_name(out.target_);
    out.fd_ = UniqueFd(::openat(out.directory_.get(), name.c_str(),
                                O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
    out.temporary_ = out.fd_.valid() ? name : "";
  }
  if (!out.fd_.valid()) {
    return cannot("creating ", path, errno);
  }
  return out;
}

// Gives the file a name that is free; else false, with errno.
bool FreshFile::link(const std::string& name) const {
  // linkat(2): AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH, the link in /proc does not.
  const std::string self = "/proc/self/fd/" + std::to_string(fd_.get());
  return temporary_.empty() ? ::linkat(AT_FDCWD, self.c_str(), directory_.get(), name.c_str(),
                                       AT_SYMLINK_FOLLOW) == 0
                            : ::linkat(directory_.get(), temporary_.c_str(), directory_.get(),
                                       name.c_str(), 0) == 0;
}

Outcome<> FreshFile::sync() const {
  return ::fsync(fd_.get()) == 0 ? Outcome<>() : cannot("writing ", path_, errno);
}

Outcome<> FreshFile::place() {
  POSTERN_TRY(sync());
  if (!temporary_.empty() || !link(target_)) {
    if (temporary_.empty()) {
      // No call links over a name that is there: to a hidden one first, to rename from.
      const std::string name = hidden_name(target_);
      if (errno != EEXIST || !link(name)) {
        return cannot("naming ", path_, errno);
      }
      temporary_ = name;
    }
    if (::renameat(directory_.get(), temporary_.c_str(), directory_.get(), target_.c_str()) != 0) {
      return cannot("naming ", path_, errno);
    }
    temporary_.clear();
  }
  // The directory's entry too; some network file systems cannot do this, and then nothing is lost
  // but the certainty.
  (void)::fsync(directory_.get());
  return Ok{};
}

Outcome<> FreshFile::place_new() {
  POSTERN_TRY(sync());
  if (!link(target_)) {
    return cannot("naming ", path_, errno);
  }
  (void)::fsync(directory_.get());
  return Ok{};
}

}  // namespace postern::path
