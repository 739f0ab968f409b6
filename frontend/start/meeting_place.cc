#include "frontend/start/meeting_place.h"

#include <cerrno>
#include <optional>

#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace postern::start {
namespace {

constexpr int kAttempts = 16;
constexpr int kMostSwept = 64;

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
  if (publish(directory, meeting.name, socket, meeting.inode)) {
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
    if (!lock(directory, kPatienceSeconds)) {
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
  if (!meeting.directory.valid() || !lock(directory, kPatienceSeconds)) {
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
