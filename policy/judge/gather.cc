#include "policy/judge/gather.h"

#include <algorithm>
#include <array>
#include <climits>

#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include "policy/admit/ids.h"
#include "policy/config/read_file.h"
#include "policy/config/unwritable.h"
#include "policy/image/image.h"
#include "policy/seal/seal.h"
#include "protocol/base/unique_fd.h"

namespace postern::judge {
namespace {

// Not in linux/magic.h of all baselines.
constexpr long kFuseMagic = 0x65735546;
constexpr long kNsfsMagic = 0x6e736673;

std::optional<std::string> read_link(int fd) {
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  std::array<char, PATH_MAX> buffer;
  const ssize_t length = ::readlink(link.c_str(), buffer.data(), buffer.size());
  if (length <= 0 || static_cast<std::size_t>(length) >= buffer.size()) {
    return std::nullopt;
  }
  return std::string(buffer.data(), static_cast<std::size_t>(length));
}

// A kernel-mounted image must be an ordinary file that its opener may read: a write-only
// descriptor would let it read what it cannot, a file on FUSE hangs the node (ATTACKS, N). An
// overlay in a mount namespace of the caller's may have FUSE below it, and shows its owner and
// mode.
bool is_ordinary_file(int fd, const struct stat& status, const MountTable& mounts) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (!S_ISREG(status.st_mode) || flags < 0 || (flags & O_PATH) != 0 ||
      (flags & O_ACCMODE) == O_WRONLY) {
    return false;
  }
  struct statfs where{};
  if (::fstatfs(fd, &where) != 0) {
    return false;
  }
  constexpr std::array<long, 6> kRefused = {kFuseMagic,    PROC_SUPER_MAGIC, SYSFS_MAGIC,
                                            DEBUGFS_MAGIC, TRACEFS_MAGIC,    CGROUP2_SUPER_MAGIC};
  return std::find(kRefused.begin(), kRefused.end(), where.f_type) == kRefused.end() &&
         (where.f_type != OVERLAYFS_SUPER_MAGIC || mounts.shows(fd));
}

// Whoever made the seal, the kernel checks each block against it: the file may be rewritten under
// the mount. Whether a signature covers it decides about trust, and is signatures.h.
void add_seal(Snapshot& bytes, const image::ImageInfo& info, ImageFacts& facts) {
  const auto root = info.sif->object(info.root_object);
  auto found = root ? seal::find_seal(*info.sif, bytes, **root) : std::move(root).error();
  if (found) {
    facts.verity = *found;
  } else {
    facts.problem = RefusalCode::kSeal;
  }
}

void add_content(Snapshot& bytes, ImageFacts& facts) {
  const Outcome<image::ImageInfo> info = image::identify(bytes);
  if (!info) {
    facts.problem = RefusalCode::kImageMalformed;
    return;
  }
  switch (info->kind) {
    case image::Kind::kDirectory:
      facts.problem = RefusalCode::kImageDescriptor;
      return;
    case image::Kind::kSif:
      facts.kind = ImageKind::kSif;
      add_seal(bytes, *info, facts);
      break;
    case image::Kind::kSquashfs:
      facts.kind = ImageKind::kSquashfs;
      break;
  }
  facts.encrypted = info->encrypted;
  facts.offset = info->extent.offset;
  facts.bytes = info->extent.bytes;
}

std::optional<FileId> id_of(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    return std::nullopt;
  }
  return FileId{status.st_dev, status.st_ino};
}

void add_bind(std::vector<SiteBind>& binds, const std::string& source, std::string target) {
  if (const std::optional<FileId> id = id_of(source)) {
    binds.push_back({*id, std::move(target)});
  }
}

}  // namespace

std::optional<std::string> path_of(int fd, const MountTable& mounts) {
  struct statx status{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status) != 0 || status.stx_nlink == 0 ||
      !mounts.shows(fd)) {
    return std::nullopt;
  }
  std::optional<std::string> path = read_link(fd);
  // The kernel marks an unlinked name so. A file that is really called that has no path for us.
  if (!path || !path->starts_with('/') || path->ends_with(" (deleted)")) {
    return std::nullopt;
  }
  return path;
}

std::string shown_path(int fd) {
  return read_link(fd).value_or("?");
}

ImageFacts image_facts(int fd, Snapshot& bytes, const MountTable& mounts) {
  ImageFacts facts;
  struct stat status{};
  if (::fstat(fd, &status) != 0 || !is_ordinary_file(fd, status, mounts)) {
    facts.problem = RefusalCode::kImageDescriptor;
    return facts;
  }
  facts.uid = status.st_uid;
  facts.gid = status.st_gid;
  facts.unwritable = config::is_unwritable(fd, mounts);
  facts.path = path_of(fd, mounts);
  add_content(bytes, facts);
  return facts;
}

SourceFacts source_facts(int fd, const MountTable& mounts) {
  SourceFacts facts;
  struct statx status{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status) != 0) {
    return facts;
  }
  struct stat classic{};  // the only portable source of st_dev as one number
  if (::fstat(fd, &classic) != 0) {
    return facts;
  }
  facts.id = FileId{classic.st_dev, classic.st_ino};
  facts.device = S_ISCHR(classic.st_mode) ? classic.st_rdev : 0;
  facts.is_mount_root = (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
  facts.path = path_of(fd, mounts);
  return facts;
}

std::vector<SiteBind> site_binds(const config::SiteConfig& site, const std::string& home) {
  std::vector<SiteBind> binds;
  for (const std::string& specification : site.mount_binds) {
    const std::size_t colon = specification.find(':');
    const std::string source = specification.substr(0, colon);
    const std::string rest = colon == std::string::npos ? source : specification.substr(colon + 1);
    add_bind(binds, source, rest.substr(0, rest.find(':')));
  }
  if (site.mount_tmp) {
    add_bind(binds, "/tmp", "/tmp");
    add_bind(binds, "/var/tmp", "/var/tmp");
  }
  if (site.mount_home && !home.empty()) {
    add_bind(binds, home, home);
    if (!binds.empty() && binds.back().target == home) {
      binds.back().is_home = true;
    }
  }
  if (site.config_resolv_conf) {
    add_bind(binds, "/etc/resolv.conf", "/etc/resolv.conf");
  }
  return binds;
}

std::vector<FileId> listed_networks(const config::List& paths) {
  std::vector<FileId> ids;
  for (const std::string& path : paths) {
    if (const std::optional<FileId> id = id_of(path)) {
      ids.push_back(*id);
    }
  }
  return ids;
}

bool is_listed_network(int fd, const std::vector<FileId>& listed) {
  struct stat status{};
  struct statfs where{};
  if (::fstat(fd, &status) != 0 || ::fstatfs(fd, &where) != 0 || where.f_type != kNsfsMagic ||
      ::ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET) {
    return false;
  }
  return std::find(listed.begin(), listed.end(), FileId{status.st_dev, status.st_ino}) !=
         listed.end();
}

std::uint64_t granted_capabilities(const config::CapabilityConfig& config,
                                   std::uint32_t uid,
                                   const std::vector<std::uint32_t>& groups) {
  std::uint64_t bits = 0;
  for (const config::Grant& grant : config.users) {
    const std::vector<std::uint32_t> ids = admit::user_ids({grant.name});
    bits |= !ids.empty() && ids.front() == uid ? grant.bits : 0;
  }
  for (const config::Grant& grant : config.groups) {
    const std::vector<std::uint32_t> ids = admit::group_ids({grant.name});
    const bool is_member =
        !ids.empty() && std::find(groups.begin(), groups.end(), ids.front()) != groups.end();
    bits |= is_member ? grant.bits : 0;
  }
  return bits;
}

}  // namespace postern::judge
