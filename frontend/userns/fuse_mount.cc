#include "frontend/userns/fuse_mount.h"

#include <array>
#include <cerrno>
#include <charconv>

#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <unistd.h>

namespace postern::userns {
namespace {

struct Option {
  const char* key;
  const char* value;  // nullptr: a flag
};

class Number {
 public:
  explicit Number(unsigned value) noexcept {
    *std::to_chars(text_.data(), text_.data() + text_.size() - 1, value).ptr = '\0';
  }

  [[nodiscard]] const char* text() const noexcept { return text_.data(); }

 private:
  std::array<char, 16> text_{};
};

Error failed() noexcept {
  return Error{.err = errno, .op = Op::kMountRoot};
}

}  // namespace

Result<UniqueFd> mount_fuse(UniqueFd fuse) noexcept {
  const Number fd(static_cast<unsigned>(fuse.get()));
  const Number uid(::getuid());
  const Number gid(::getgid());
  // fuse.txt of the kernel: allow_other lets in the processes of this user namespace, which are all
  // the caller's; without it fake root could not change its uid.
  const std::array<Option, 7> options = {{{"source", "postern"},
                                          {"fd", fd.text()},
                                          {"rootmode", "40000"},
                                          {"user_id", uid.text()},
                                          {"group_id", gid.text()},
                                          {"default_permissions", nullptr},
                                          {"allow_other", nullptr}}};
  const UniqueFd context(::fsopen("fuse", FSOPEN_CLOEXEC));
  if (!context.valid()) {
    return failed();
  }
  for (const Option& option : options) {
    const auto command = option.value == nullptr ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
    if (::fsconfig(context.get(), command, option.key, option.value, 0) != 0) {
      return failed();
    }
  }
  if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return failed();
  }
  UniqueFd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC,
                           MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  if (!mount.valid()) {
    return failed();
  }
  return mount;
}

Result<UniqueFd> open_inside(int root, const char* path, int flags) noexcept {
  const open_how how = {.flags = static_cast<unsigned>(flags | O_CLOEXEC),
                        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  long fd = -1;
  // EAGAIN: a rename or mount somewhere on the host raced with a ".." (openat2(2)).
  for (int attempt = 0; attempt < 32 && fd < 0 && (attempt == 0 || errno == EAGAIN); ++attempt) {
    fd = ::syscall(SYS_openat2, root, path, &how, sizeof(how));
  }
  if (fd < 0) {
    return Error{.err = errno, .op = Op::kTarget};
  }
  return UniqueFd(static_cast<int>(fd));
}

}  // namespace postern::userns
