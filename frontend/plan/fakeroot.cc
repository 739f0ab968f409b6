#include "frontend/plan/fakeroot.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include <unistd.h>

#include "frontend/plan/seccomp_profile.h"
#include "frontend/system/subids.h"

namespace postern::plan {
namespace {

// Rules in the form that seccomp_profile.h reads. Errno 0: the call returns 0 and does nothing.
//
// mknod(path, mode, device), mknodat(directory, path, mode, device). 61440 is S_IFMT, 8192 S_IFCHR,
// 24576 S_IFBLK. Device 0:0 is overlayfs's whiteout, which every user may make.
constexpr std::string_view kDeviceRules = R"(
{"names": ["mknod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": [
  {"index": 1, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"},
  {"index": 2, "value": 0, "op": "SCMP_CMP_NE"}]},
{"names": ["mknod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": [
  {"index": 1, "value": 61440, "valueTwo": 24576, "op": "SCMP_CMP_MASKED_EQ"}]},
{"names": ["mknodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": [
  {"index": 2, "value": 61440, "valueTwo": 8192, "op": "SCMP_CMP_MASKED_EQ"},
  {"index": 3, "value": 0, "op": "SCMP_CMP_NE"}]},
{"names": ["mknodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": [
  {"index": 2, "value": 61440, "valueTwo": 24576, "op": "SCMP_CMP_MASKED_EQ"}]})";

constexpr std::string_view kIdentityRule = R"(,
{"action": "SCMP_ACT_ERRNO", "errnoRet": 0, "names": [
  "chown", "chown32", "lchown", "lchown32", "fchown", "fchown32", "fchownat",
  "setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32", "setregid", "setregid32",
  "setresuid", "setresuid32", "setresgid", "setresgid32", "setgroups", "setgroups32",
  "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "capset"]})";

constexpr std::string_view kMountRule = R"(,
{"action": "SCMP_ACT_ERRNO", "errnoRet": 0, "names": ["mount", "umount", "umount2"]})";

bool is_program(const char* name) {
  static constexpr std::array<const char*, 3> kDirectories = {"/usr/bin/", "/bin/",
                                                              "/usr/local/bin/"};
  return std::any_of(kDirectories.begin(), kDirectories.end(), [name](const char* directory) {
    return ::access((std::string(directory) + name).c_str(), X_OK) == 0;
  });
}

}  // namespace

Fakeroot choose_fakeroot(const Identity& caller, bool asked) {
  if (caller.uid == 0) {
    return system::may_map_all_ids() ? Fakeroot::kAllIds : Fakeroot::kNone;
  }
  if (!asked) {
    return Fakeroot::kNone;
  }
  const bool subordinate = system::subordinate_ids(caller.name, caller.uid, caller.gid).usable() &&
                           is_program("newuidmap") && is_program("newgidmap");
  return subordinate ? Fakeroot::kSubordinate : Fakeroot::kRootMapped;
}

Outcome<std::vector<std::uint8_t>> imitation_filter(Fakeroot kind, bool mounts) {
  std::string rules(kDeviceRules);
  const bool single_id =
      kind == Fakeroot::kRootMapped ||
      (kind == Fakeroot::kAllIds && !system::holds_id(system::own_user_ids(), 1));
  rules += single_id ? kIdentityRule : std::string_view{};
  rules += mounts ? kMountRule : std::string_view{};
  return compile_own_rules(rules);
}

Identity root_identity() {
  return {.uid = 0,
          .gid = 0,
          .name = "root",
          .gecos = "root",
          .home = "/root",
          .shell = "/bin/sh",
          .groups = {{0, "root"}}};
}

}  // namespace postern::plan
