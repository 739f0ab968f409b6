// Mounts as objects, before they are anywhere (fsopen(2)), and names inside a root. Allocates
// nothing.
#pragma once

#include <initializer_list>

#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <fcntl.h>

#include "protocol/base/syscall.h"

namespace postern {

// Key (nullptr: no option) and value (nullptr: a flag).
using MountOption = std::pair<const char*, const char*>;

// A detached mount of a new file system. Keys are constants; values are constants or numbers of
// ours.
inline Result<UniqueFd> new_mount(const char* type,
                                  std::initializer_list<MountOption> options,
                                  unsigned attributes,
                                  Op op) noexcept {
  POSTERN_TRY_ASSIGN(const UniqueFd context, own(::fsopen(type, FSOPEN_CLOEXEC), op));
  for (const auto& [key, value] : options) {
    const auto command = value == nullptr ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
    POSTERN_TRY(
        require(key == nullptr || ::fsconfig(context.get(), command, key, value, 0) == 0, op));
  }
  POSTERN_TRY(
      require(::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0, op));
  return own(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes), op);
}

// What the caller's server behind an open /dev/fuse serves, read-only, nosuid,nodev (fuse.txt of
// the kernel). A connection that is mounted already is mounted once more (Linux 5.15).
// `allow_other`: only where all whom that lets in are the caller's own ids.
inline Result<UniqueFd> new_fuse_mount(int device, bool allow_other) noexcept {
  constexpr unsigned kPlainReadOnly = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  // clang-format off
  return new_mount("fuse",
                   {{"source", "postern"}, {"fd", Text().add(static_cast<unsigned>(device)).text()},
                    {"rootmode", "40000"}, {"user_id", Text().add(::getuid()).text()},
                    {"default_permissions", nullptr}, {"group_id", Text().add(::getgid()).text()},
                    {allow_other ? "allow_other" : nullptr, nullptr}}, kPlainReadOnly, Op::kMountRoot);
  // clang-format on
}

// Opens `path` inside `root`, whatever links the image holds. EAGAIN: a rename or mount somewhere
// on the host raced with a ".." (openat2(2)).
inline Result<UniqueFd> open_inside(int root, const char* path, unsigned flags) noexcept {
  open_how how{.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  long fd = -1;
  for (int left = 32; fd < 0 && left > 0; left = errno == EAGAIN ? left - 1 : 0)
    fd = ::syscall(SYS_openat2, root, path, &how, sizeof how);
  return own(fd, Op::kTarget);
}

}  // namespace postern
