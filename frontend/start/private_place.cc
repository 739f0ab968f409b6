#include "frontend/start/private_place.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

namespace postern::start {
namespace {

constexpr int kBacklog = 4096;
constexpr const char* kNewName = ".new";  // between bind(2) and listen(2), under the lock
constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

// ---------------------------------------------------------------------------------- the directory

bool is_private(const struct stat& info, uid_t owner) noexcept {
  return S_ISDIR(info.st_mode) && info.st_uid == owner && (info.st_mode & 077) == 0;
}

// Made where it is missing.
UniqueFd open_private(const std::string& path) noexcept {
  return open_private_below(AT_FDCWD, path);
}

std::string variable(const char* name) {
  const char* const value = ::getenv(name);  // NOLINT(concurrency-mt-unsafe): one thread
  return value != nullptr && *value == '/' ? value : std::string();
}

// What the session manager made (XDG base directory specification, pam_systemd(8)).
std::string runtime_folder() {
  for (const std::string& path :
       {variable("XDG_RUNTIME_DIR"), "/run/user/" + std::to_string(::geteuid())}) {
    struct stat info = {};
    if (!path.empty() && ::stat(path.c_str(), &info) == 0 && is_private(info, ::geteuid())) {
      return path;
    }
  }
  return {};
}

// 32 digits that only this user can read, in a file of the home directory; "" where there is none.
std::string read_secret(const std::string& file) {
  std::array<char, 32> digits = {};
  const UniqueFd fd(::open(file.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid() || ::read(fd.get(), digits.data(), digits.size()) != ssize_t{digits.size()}) {
    return {};
  }
  const std::string text(digits.data(), digits.size());
  return text.find_first_not_of("0123456789abcdef") == text.npos ? text : std::string();
}

// A file appears whole: rename(2). Who comes second takes what the first has written.
std::string make_secret(const std::string& folder, const std::string& file) {
  std::array<unsigned char, 16> random = {};
  std::string text;
  if (::getrandom(random.data(), random.size(), 0) != ssize_t{random.size()}) {
    return {};
  }
  for (const unsigned char byte : random) {
    std::array<char, 3> two = {};
    std::snprintf(two.data(), two.size(), "%02x", byte);
    text += two.data();
  }
  ::mkdir(folder.c_str(), 0700);
  const std::string draft = file + "." + text;
  {
    const UniqueFd fd(::open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.valid() ||
        ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      ::unlink(draft.c_str());
      return {};
    }
  }
  if (::link(draft.c_str(), file.c_str()) != 0) {
    text = read_secret(file);
  }
  ::unlink(draft.c_str());
  return text;
}

// Where another user sits on the name in /tmp: a name that nobody can guess, kept in the home
// directory. Should it have been seen and taken as well, a new one.
UniqueFd open_hidden(const std::string& prefix, std::string& path) {
  const std::string home = variable("HOME");
  if (home.empty()) {
    return UniqueFd();
  }
  const std::string folder = home + "/.postern";
  const std::string file = folder + "/meeting-place";
  for (int tries = 0; tries < 2; ++tries) {
    std::string secret = read_secret(file);
    if (secret.empty()) {
      secret = make_secret(folder, file);
    }
    path = prefix + "-" + secret;
    UniqueFd directory = secret.empty() ? UniqueFd() : open_private(path);
    if (directory.valid()) {
      return directory;
    }
    ::unlink(file.c_str());
  }
  return UniqueFd();
}

// ------------------------------------------------------------------------------------ the sockets

// Addresses lead through a descriptor: neither the directory nor the image shows in /proc/net/unix,
// and no name is too long for them.
sockaddr_un address_of(int fd, std::string_view below) noexcept {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d%.*s", fd,
                static_cast<int>(below.size()), below.data());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) noexcept {
  return reinterpret_cast<const sockaddr*>(&address);  // SAFETY: sockaddr_un is one (unix(7))
}

}  // namespace

UniqueFd open_owned(int folder, const std::string& path, uid_t owner) noexcept {
  UniqueFd directory(::openat(folder, path.c_str(), kFlags));
  struct stat info = {};
  if (directory.valid() && (::fstat(directory.get(), &info) != 0 || !is_private(info, owner))) {
    directory.reset();
    errno = EPERM;
  }
  return directory;
}

UniqueFd open_private_below(int folder, const std::string& path) noexcept {
  UniqueFd directory = open_owned(folder, path, ::geteuid());
  if (!directory.valid() && errno == ENOENT &&
      (::mkdirat(folder, path.c_str(), 0700) == 0 || errno == EEXIST)) {
    directory = open_owned(folder, path, ::geteuid());
  }
  return directory;
}

UniqueFd open_place(std::string& path) {
  if (const std::string folder = runtime_folder(); !folder.empty()) {
    path = folder + "/postern";
    if (UniqueFd directory = open_private(path); directory.valid()) {
      return directory;
    }
  }
  const std::string open_to_all = "/tmp/postern-" + std::to_string(::geteuid());
  path = open_to_all;
  UniqueFd directory = open_private(path);
  return directory.valid() ? std::move(directory) : open_hidden(open_to_all, path);
}

std::vector<std::string> known_places(uid_t owner) {
  std::vector<std::string> all;
  const std::string number = std::to_string(owner);
  if (owner == ::geteuid()) {
    if (const std::string folder = runtime_folder(); !folder.empty()) {
      all.push_back(folder + "/postern");
    }
  }
  all.push_back("/run/user/" + number + "/postern");
  all.push_back("/tmp/postern-" + number);
  const std::string home = variable("HOME");
  if (owner == ::geteuid() && !home.empty()) {
    const std::string secret = read_secret(home + "/.postern/meeting-place");
    if (!secret.empty()) {
      all.push_back("/tmp/postern-" + number + "-" + secret);
    }
  }
  return all;
}

UniqueFd new_socket() noexcept {
  constexpr timeval kPatience = {.tv_sec = kPatienceSeconds, .tv_usec = 0};
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  return socket;
}

// kDead: a socket whose listener is gone. It listens from before it has its name, to its end.
Reached reach(int directory,
              const char* name,
              const UniqueFd& socket,
              std::uint64_t* inode) noexcept {
  const UniqueFd entry(::openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat info = {};
  if (!entry.valid()) {
    return errno == ENOENT ? Reached::kNothing : Reached::kOther;
  }
  if (::fstat(entry.get(), &info) != 0 || !S_ISSOCK(info.st_mode)) {
    return Reached::kOther;
  }
  if (inode != nullptr) {
    *inode = info.st_ino;
  }
  const sockaddr_un address = address_of(entry.get(), "");
  if (::connect(socket.get(), generic(address), sizeof address) == 0) {
    return Reached::kYes;
  }
  return errno == ECONNREFUSED ? Reached::kDead : Reached::kOther;
}

bool lock(int directory, int seconds) noexcept {
  constexpr long kFirstPause = 100'000;
  constexpr long kLastPause = 10'000'000;
  std::int64_t waited = 0;
  for (long pause = kFirstPause; ::flock(directory, LOCK_EX | LOCK_NB) != 0;
       pause = std::min(2 * pause, kLastPause)) {
    if (errno != EWOULDBLOCK || waited > seconds * 1'000'000'000L) {
      return false;
    }
    const timespec time = {.tv_sec = 0, .tv_nsec = pause};
    ::nanosleep(&time, nullptr);
    waited += pause;
  }
  return true;
}

bool publish(int directory,
             const std::string& name,
             UniqueFd& socket,
             std::uint64_t& inode) noexcept {
  ::unlinkat(directory, kNewName, 0);
  const sockaddr_un address = address_of(directory, std::string("/") + kNewName);
  struct stat info = {};
  socket = new_socket();
  if (!socket.valid() || ::bind(socket.get(), generic(address), sizeof address) != 0) {
    return false;
  }
  // ORDER: it listens before anybody can find it. The server calls listen(2) again.
  if (::listen(socket.get(), kBacklog) != 0 ||
      ::fstatat(directory, kNewName, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::renameat(directory, kNewName, directory, name.c_str()) != 0) {
    const int err = errno;
    ::unlinkat(directory, kNewName, 0);
    errno = err;
    return false;
  }
  inode = info.st_ino;
  return true;
}

}  // namespace postern::start
