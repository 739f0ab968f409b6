#include "frontend/start/meeting_place.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <dirent.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

namespace postern::start {
namespace {

constexpr int kBacklog = 4096;
constexpr int kAttempts = 16;
constexpr const char* kNewName = "new";  // between bind(2) and listen(2), under the lock
constexpr int kMostSwept = 64;

// ---------------------------------------------------------------------------------- the directory

bool is_private(const struct stat& info) noexcept {
  return S_ISDIR(info.st_mode) && info.st_uid == ::geteuid() && (info.st_mode & 077) == 0;
}

// Made where it is missing; invalid where it is, or becomes, somebody else's.
UniqueFd open_private(const std::string& path) noexcept {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  UniqueFd directory(::open(path.c_str(), kFlags));
  if (!directory.valid() && errno == ENOENT &&
      (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST)) {
    directory = UniqueFd(::open(path.c_str(), kFlags));
  }
  struct stat info = {};
  if (directory.valid() && (::fstat(directory.get(), &info) != 0 || !is_private(info))) {
    directory.reset();
  }
  return directory;
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
    if (!path.empty() && ::stat(path.c_str(), &info) == 0 && is_private(info)) {
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

UniqueFd new_socket() noexcept {
  constexpr timeval kPatience = {.tv_sec = kPatienceSeconds, .tv_usec = 0};
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  return socket;
}

enum class Reached : std::uint8_t { kYes, kNothing, kDead, kOther };

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

// Not for ever: what can see the directory can hold its lock.
bool lock(int directory) noexcept {
  constexpr long kFirstPause = 100'000;
  constexpr long kLastPause = 10'000'000;
  long waited = 0;
  for (long pause = kFirstPause; ::flock(directory, LOCK_EX | LOCK_NB) != 0;
       pause = std::min(2 * pause, kLastPause)) {
    if (errno != EWOULDBLOCK || waited > kPatienceSeconds * 1'000'000'000L) {
      return false;
    }
    const timespec time = {.tv_sec = 0, .tv_nsec = pause};
    ::nanosleep(&time, nullptr);
    waited += pause;
  }
  return true;
}

// Names whose starts were killed stay behind. Under the lock.
void sweep(int directory) noexcept {
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const listing = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (listing == nullptr) {
    return;
  }
  int left = kMostSwept;
  while (const dirent* const entry = ::readdir(listing)) {
    if (entry->d_name[0] == '.' || left-- == 0) {
      continue;
    }
    const UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (reach(directory, entry->d_name, probe, nullptr) == Reached::kDead) {
      ::unlinkat(directory, entry->d_name, 0);
    }
  }
  ::closedir(listing);
}

// Under the lock: a socket that listens, under the meeting's name. False: errno.
bool publish(Meeting& meeting, UniqueFd& socket) noexcept {
  const int directory = meeting.directory.get();
  ::unlinkat(directory, kNewName, 0);
  const sockaddr_un address = address_of(directory, std::string_view("/new"));
  struct stat info = {};
  socket = new_socket();
  if (!socket.valid() || ::bind(socket.get(), generic(address), sizeof address) != 0) {
    return false;
  }
  // ORDER: it listens before anybody can find it. The server calls listen(2) again.
  if (::listen(socket.get(), kBacklog) != 0 ||
      ::fstatat(directory, kNewName, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::renameat(directory, kNewName, directory, meeting.name.c_str()) != 0) {
    ::unlinkat(directory, kNewName, 0);
    return false;
  }
  meeting.inode = info.st_ino;
  return true;
}

// Under the lock, another look first.
std::optional<Met> settle(Meeting& meeting, UniqueFd& socket) noexcept {
  const int directory = meeting.directory.get();
  switch (reach(directory, meeting.name.c_str(), socket, &meeting.inode)) {
    case Reached::kYes:
      return Met::kJoined;
    case Reached::kOther:
      return Met::kNobody;
    case Reached::kDead:
      ::unlinkat(directory, meeting.name.c_str(), 0);
      break;
    case Reached::kNothing:
      break;
  }
  sweep(directory);
  if (publish(meeting, socket)) {
    return Met::kFirst;
  }
  // ENOENT: whoever ended last has removed the directory meanwhile.
  return errno == ENOENT ? std::optional<Met>() : Met::kNobody;
}

}  // namespace

Met meet(const std::string& name, Meeting& meeting, UniqueFd& socket) {
  meeting.name = name;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    meeting.directory = open_place(meeting.path);
    socket = new_socket();
    if (!meeting.directory.valid() || !socket.valid()) {
      return Met::kNobody;
    }
    const int directory = meeting.directory.get();
    const Reached reached = reach(directory, name.c_str(), socket, &meeting.inode);
    if (reached == Reached::kYes || reached == Reached::kOther) {
      return reached == Reached::kYes ? Met::kJoined : Met::kNobody;
    }
    if (!lock(directory)) {
      return Met::kNobody;
    }
    socket = new_socket();
    const std::optional<Met> met = settle(meeting, socket);
    ::flock(directory, LOCK_UN);
    if (met) {
      return *met;
    }
  }
  return Met::kNobody;
}

void forget(Meeting& meeting) noexcept {
  struct stat info = {};
  const int directory = meeting.directory.get();
  if (!meeting.directory.valid() || !lock(directory)) {
    return;
  }
  if (::fstatat(directory, meeting.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
      info.st_ino == meeting.inode) {
    ::unlinkat(directory, meeting.name.c_str(), 0);
  }
  ::rmdir(meeting.path.c_str());  // ENOTEMPTY: others meet there
  meeting.directory.reset();      // and with it the lock
}

}  // namespace postern::start
