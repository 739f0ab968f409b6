// What a process has and sees: capabilities, the mount that a path leads to. Proved after each
// change.
#pragma once

#include <array>
#include <cstring>

#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <fcntl.h>

#include "protocol/base/syscall.h"

namespace postern {

// The id of the mount that a path leads to (statx(2)); another in each mount namespace. 0: none.
inline std::uint64_t mount_id(const char* path) noexcept {
  struct statx status{};
  return ::statx(AT_FDCWD, path, 0, STATX_MNT_ID, &status) == 0 ? status.stx_mnt_id : 0;
}

constexpr std::uint64_t bit(unsigned n) noexcept {
  return std::uint64_t{1} << n;
}

constexpr std::uint64_t kMounting = bit(CAP_SYS_ADMIN), kAllThatAreLeft = ~std::uint64_t{0};

// Keeps of the permitted set what `permitted` allows, and makes exactly the rest of the sets what
// is asked, as far as still permitted. Proved by reading back; a failure ends the process, because
// it would leave a privilege on.
inline void use_capabilities(std::uint64_t effective,
                             std::uint64_t permitted = kAllThatAreLeft,
                             std::uint64_t inheritable = 0) noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> want{}, have{};
  POSTERN_CHECK(::syscall(SYS_capget, &header, want.data()) == 0);
  for (unsigned i = 0; i < 2; ++i) {
    want[i].permitted &= static_cast<std::uint32_t>(permitted >> (32 * i));
    want[i].effective = want[i].permitted & static_cast<std::uint32_t>(effective >> (32 * i));
    want[i].inheritable = want[i].permitted & static_cast<std::uint32_t>(inheritable >> (32 * i));
  }
  POSTERN_CHECK(::syscall(SYS_capset, &header, want.data()) == 0);
  POSTERN_CHECK(::syscall(SYS_capget, &header, have.data()) == 0);
  POSTERN_CHECK(std::memcmp(have.data(), want.data(), sizeof want) == 0);
}

}  // namespace postern
