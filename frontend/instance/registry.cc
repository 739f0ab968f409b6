#include "frontend/instance/registry.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <sys/file.h>
#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/init/note.h"
#include "frontend/instance/name.h"
#include "frontend/start/private_place.h"

namespace postern::instance {
namespace {

constexpr const char* kFolder = "instances";
constexpr int kAttempts = 16;
// Hundreds of starts take the lock one after the other, on a machine that is busy with them.
constexpr int kLockSeconds = 60;

// A monitor of `owner` on this host that listens under the name.
std::optional<Contact> connect(int directory, const std::string& name, uid_t owner) {
  Contact contact{.name = name, .socket = start::new_socket(), .monitor = {}};
  const start::Reached reached =
      start::reach(directory, name.c_str(), contact.socket, /*inode=*/nullptr);
  const bool is_monitor = reached == start::Reached::kYes &&
                          start::peer_of(contact.socket.get(), contact.monitor) &&
                          contact.monitor.uid == owner && start::is_in_our_place(contact.monitor);
  return is_monitor ? std::optional(std::move(contact)) : std::nullopt;
}

UniqueFd open_folder(const std::string& place, uid_t owner) {
  const UniqueFd above = start::open_owned(AT_FDCWD, place, owner);
  return above.valid() ? start::open_owned(above.get(), kFolder, owner) : UniqueFd();
}

std::vector<std::string> names_in(int directory) {
  std::vector<std::string> names;
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const listing = copy >= 0 ? ::fdopendir(copy) : nullptr;
  if (listing == nullptr) {
    return names;
  }
  while (const dirent* const entry = ::readdir(listing)) {
    if (check_name(entry->d_name)) {
      names.emplace_back(entry->d_name);
    }
  }
  ::closedir(listing);
  return names;
}

// Monitors that were killed leave their names behind.
void sweep(int directory, const std::vector<std::string>& names) {
  if (names.empty() || ::flock(directory, LOCK_EX | LOCK_NB) != 0) {
    return;
  }
  for (const std::string& name : names) {
    const UniqueFd probe = start::new_socket();
    if (start::reach(directory, name.c_str(), probe, nullptr) == start::Reached::kDead) {
      ::unlinkat(directory, name.c_str(), 0);
    }
  }
  ::flock(directory, LOCK_UN);
}

Problem exists_already(const std::string& name) {
  return {.what = "instance " + name + " already exists",
          .cure = "choose another name, or end it: postern instance stop " + name};
}

// Under the lock. Returns 0, errno, or EEXIST where somebody listens there.
int take(int directory, const std::string& name, UniqueFd& socket, std::uint64_t& inode) {
  const UniqueFd probe = start::new_socket();
  switch (start::reach(directory, name.c_str(), probe, nullptr)) {
    case start::Reached::kYes:
      return EEXIST;
    case start::Reached::kOther:
      return ENOTSOCK;
    case start::Reached::kDead:
    case start::Reached::kNothing:
      break;
  }
  return start::publish(directory, name, socket, inode) ? 0 : errno;
}

}  // namespace

void Claim::release() noexcept {
  struct stat info = {};
  if (!socket_.valid()) {
    return;
  }
  if (::fstatat(directory_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
      info.st_ino == inode_) {
    ::unlinkat(directory_.get(), name_.c_str(), 0);
  }
  // ENOTEMPTY: there are others.
  ::rmdir((path_ + "/" + kFolder).c_str());
  ::rmdir(path_.c_str());
  socket_.reset();
}

Outcome<Claim> claim(const std::string& name) {
  if (find(name)) {
    return exists_already(name);
  }
  int err = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Claim claim;
    claim.name_ = name;
    const UniqueFd above = start::open_place(claim.path_);
    claim.directory_ = above.valid() ? start::open_private_below(above.get(), kFolder) : UniqueFd();
    if (!claim.directory_.valid()) {
      err = errno;
      if (err == ENOENT) {
        continue;  // whoever ended last has removed the folder meanwhile
      }
      return system_problem("making a private directory for the instance", err,
                            "set XDG_RUNTIME_DIR to a directory of yours with mode 0700");
    }
    if (!start::lock(claim.directory_.get(), kLockSeconds)) {
      return Problem{.what = "the lock of " + claim.path_ + "/" + kFolder + " is held by others"};
    }
    err = take(claim.directory_.get(), name, claim.socket_, claim.inode_);
    ::flock(claim.directory_.get(), LOCK_UN);
    if (err == 0) {
      return claim;
    }
    claim.socket_.reset();
    if (err == EEXIST) {
      return exists_already(name);
    }
    if (err != ENOENT) {
      break;
    }
  }
  return system_problem("taking the name of instance " + name, err);
}

std::optional<Contact> find(const std::string& name) {
  for (const std::string& place : start::known_places(::geteuid())) {
    const UniqueFd folder = open_folder(place, ::geteuid());
    if (!folder.valid()) {
      continue;
    }
    if (auto contact = connect(folder.get(), name, ::geteuid())) {
      return contact;
    }
  }
  return std::nullopt;
}

std::vector<Contact> find_all(const std::string& pattern, uid_t owner) {
  std::vector<Contact> all;
  std::vector<std::string> seen;
  for (const std::string& place : start::known_places(owner)) {
    const UniqueFd folder = open_folder(place, owner);
    struct stat info = {};
    if (!folder.valid() || ::fstat(folder.get(), &info) != 0) {
      continue;
    }
    const std::string identity = std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
    if (std::find(seen.begin(), seen.end(), identity) != seen.end()) {
      continue;
    }
    seen.push_back(identity);
    std::vector<std::string> others;
    for (const std::string& name : names_in(folder.get())) {
      if (auto contact = connect(folder.get(), name, owner)) {
        if (matches(pattern, name)) {
          all.push_back(*std::move(contact));
        }
      } else {
        others.push_back(name);
      }
    }
    if (owner == ::geteuid()) {
      sweep(folder.get(), others);
    }
  }
  std::sort(all.begin(), all.end(),
            [](const Contact& a, const Contact& b) { return a.name < b.name; });
  return all;
}

Outcome<Description> describe(const Contact& contact) {
  std::string bytes(kMostDescriptionBytes, '\0');
  system::Received got;
  Description description;
  int err = init::send_note(contact.socket.get(), {init::NoteKind::kDescribe, 0});
  err = err != 0 ? err : system::receive_message(contact.socket.get(), bytes, got);
  if (err == 0) {
    bytes.resize(got.bytes);
    err = decode(bytes, description) ? 0 : EBADMSG;
  }
  if (err != 0) {
    return Problem{.what = "instance " + contact.name + " does not answer",
                   .cure =
                       "it may be starting; a process that is stopped (SIGSTOP) can be ended "
                       "by: postern instance stop --force " +
                       contact.name};
  }
  return description;
}

}  // namespace postern::instance
