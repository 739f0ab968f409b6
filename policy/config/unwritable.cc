#include "policy/config/unwritable.h"

#include <algorithm>
#include <charconv>
#include <string>

#include <sys/stat.h>
#include <sys/vfs.h>

#include <fcntl.h>
#include <unistd.h>

#include "policy/text/split.h"
#include "protocol/base/unique_fd.h"

namespace postern::config {
namespace {

constexpr long kFuseMagic = 0x65735546;  // fs/fuse/inode.c, FUSE_SUPER_MAGIC

}  // namespace

MountTable MountTable::read() {
  const UniqueFd file(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    return {};
  }
  std::string text;
  for (;;) {
    constexpr std::size_t kChunk = 64 * 1024;
    const std::size_t had = text.size();
    text.resize(had + kChunk);
    const ssize_t got = ::read(file.get(), text.data() + had, kChunk);
    text.resize(had + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got <= 0) {
      return got == 0 ? parse(text) : MountTable();
    }
  }
}

MountTable MountTable::parse(std::string_view text) {
  MountTable table;
  while (!text.empty()) {
    std::uint64_t id = 0;
    const std::string_view line = text::next_line(text);
    if (std::from_chars(line.data(), line.data() + line.size(), id).ec == std::errc()) {
      table.ids_.push_back(id);
    }
  }
  std::sort(table.ids_.begin(), table.ids_.end());
  return table;
}

bool MountTable::shows(int fd) const noexcept {
  struct statx status{};
  // COMPAT: kernel < 5.8 has no STATX_MNT_ID; the mask then comes back without it.
  return ::statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &status) == 0 &&
         (status.stx_mask & STATX_MNT_ID) != 0 &&
         std::binary_search(ids_.begin(), ids_.end(), status.stx_mnt_id);
}

bool is_unwritable(int fd, const MountTable& mounts) noexcept {
  struct stat status{};
  struct statfs where{};
  return ::fstat(fd, &status) == 0 && ::fstatfs(fd, &where) == 0 && where.f_type != kFuseMagic &&
         S_ISREG(status.st_mode) && status.st_uid == 0 &&
         (status.st_mode & (S_IWGRP | S_IWOTH)) == 0 && !mounts.has_writer() && mounts.shows(fd);
}

}  // namespace postern::config
