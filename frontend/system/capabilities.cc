#include "frontend/system/capabilities.h"

#include <array>
#include <cerrno>
#include <cstdint>

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <unistd.h>

namespace postern::system {
namespace {

// What build_root left permitted only is needed for the drop.
int raise_permitted() noexcept {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets = {};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) {
    return errno;
  }
  for (__user_cap_data_struct& set : sets) {
    set.effective = set.permitted;
  }
  return ::syscall(SYS_capset, &header, sets.data()) == 0 ? 0 : errno;
}

}  // namespace

int drop_capabilities(std::uint64_t keep) noexcept {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return errno;
  }
  if (const int err = raise_permitted(); err != 0) {
    return err;
  }
  std::uint64_t known = 0;
  // ORDER: the bounding set first, it takes CAP_SETPCAP. EINVAL: past the kernel's last capability.
  for (unsigned capability = 0; capability < 64; ++capability) {
    const bool kept = (keep >> capability & 1) != 0;
    if ((kept ? ::prctl(PR_CAPBSET_READ, capability) : ::prctl(PR_CAPBSET_DROP, capability)) < 0) {
      if (errno == EINVAL) {
        break;
      }
      return errno;
    }
    known |= kept ? std::uint64_t{1} << capability : 0;
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets = {};
  for (unsigned i = 0; i < sets.size(); ++i) {
    const auto half = static_cast<std::uint32_t>(known >> (32 * i));
    sets[i] = {.effective = half, .permitted = half, .inheritable = half};
  }
  if (::syscall(SYS_capset, &header, sets.data()) != 0 ||
      ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return errno;
  }
  for (unsigned capability = 0; capability < 64; ++capability) {
    if ((known >> capability & 1) != 0 &&
        ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) {
      return errno;
    }
  }
  return 0;
}

}  // namespace postern::system
