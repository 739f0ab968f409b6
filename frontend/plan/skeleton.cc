#include "frontend/plan/skeleton.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/plan/bind.h"
#include "protocol/base/mount_object.h"
#include "protocol/base/unique_fd.h"

namespace postern::plan {
namespace {

UniqueFd find_inside(int root, const std::string& path) {
  Result<UniqueFd> found = open_inside(root, path.c_str(), O_PATH);
  return found ? *std::move(found) : UniqueFd();
}

// Where the descriptor lies, from the kernel's view: symbolic links resolved.
std::string path_of(int fd) {
  std::array<char, 4096> path{};
  const ssize_t length =
      ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size());
  return length > 0 && static_cast<std::size_t>(length) < path.size()
             ? std::string(path.data(), static_cast<std::size_t>(length))
             : std::string{};
}

class Skeleton {
 public:
  Skeleton(int root, uid_t uid, gid_t gid)
      : root_(root), root_path_(path_of(root)), uid_(uid), gid_(gid) {}

  void want(const std::string& target, bool directory) {
    // The longest part of the target that the image has.
    std::string existing = target;
    UniqueFd found = find_inside(root_, existing);
    while (!found.valid() && existing != "/") {
      existing.resize(std::max<std::size_t>(existing.rfind('/'), 1));
      found = find_inside(root_, existing);
    }
    struct stat status = {};
    if (existing == target || !found.valid() || ::fstat(found.get(), &status) != 0 ||
        !S_ISDIR(status.st_mode) || (status.st_uid == uid_ && status.st_gid == gid_)) {
      return;
    }
    const std::string real = path_of(found.get());
    if (root_path_.empty() || !is_within(real, root_path_)) {
      return;
    }
    const std::string inside = root_path_ == "/" ? real : real.substr(root_path_.size());
    add(inside == "/" ? std::string{} : inside,
        target.substr(existing == "/" ? 0 : existing.size()), directory);
  }

  std::vector<SkeletonEntry> take() { return std::move(entries_); }

 private:
  // `inside` exists in the image, `rest` ("/a/b") below it does not.
  void add(const std::string& inside, const std::string& rest, bool directory) {
    const std::string whole = inside + rest;
    for (std::size_t end = 1; end != std::string::npos;) {
      end = whole.find('/', end);
      const std::string path = whole.substr(0, end);
      const bool last = end == std::string::npos;
      end = last ? end : end + 1;
      const bool known =
          std::any_of(entries_.begin(), entries_.end(),
                      [&](const SkeletonEntry& entry) { return entry.path == path; });
      if (known) {
        continue;
      }
      struct stat status = {};
      const UniqueFd present = path.size() <= inside.size() ? find_inside(root_, path) : UniqueFd();
      const bool has_mode = present.valid() && ::fstat(present.get(), &status) == 0;
      entries_.push_back(
          {.path = path,
           .mode = has_mode ? status.st_mode & 07777 : (last && !directory ? 0644U : 0755U),
           .directory = !last || directory});
    }
  }

  int root_;
  std::string root_path_;
  uid_t uid_;
  gid_t gid_;
  std::vector<SkeletonEntry> entries_;
};

bool is_file(const MountRequest& mount) {
  return mount.operation == Operation::kFile || mount.operation == Operation::kDevice ||
         (mount.operation == Operation::kBind && (mount.flags & kDirectoryTarget) == 0);
}

}  // namespace

std::vector<SkeletonEntry> missing_mount_points(int root,
                                                uid_t uid,
                                                gid_t gid,
                                                std::span<const MountRequest> mounts) {
  Skeleton skeleton(root, uid, gid);
  for (auto mount = mounts.begin(); mount != mounts.end(); ++mount) {
    // Below an earlier mount the mount point is made there, not in the image.
    const bool covered = std::any_of(mounts.begin(), mount, [&](const MountRequest& earlier) {
      return is_within(mount->target, earlier.target);
    });
    if (!covered && (mount->flags & kNeedsTarget) == 0) {
      skeleton.want(mount->target, !is_file(*mount));
    }
  }
  return skeleton.take();
}

}  // namespace postern::plan
