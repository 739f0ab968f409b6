// What each refusal means, in words: rule, file, what was refused, and the cure. For the frontend,
// the judge's audit line and the man pages; nothing privileged reads it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include "protocol/refusal.h"

namespace postern {

struct RefusalRow {
  RefusalCode code;
  std::string_view rule;   // stable name; for a policy file's rule, table.key
  std::string_view file;   // of the site's configuration directory; empty where none decides
  std::string_view words;  // one line without a full stop
  std::string_view cure;   // what the user, or whoever administers the node, can do
};

// clang-format off
inline constexpr std::array kRefusals = std::to_array<RefusalRow>({
  {RefusalCode::kNotSetuid, "helper.setuid", "",
   "postern-helper does not run as root: it is not installed setuid, or its file system is mounted nosuid",
   "use --userns, or have postern-helper installed root:root with mode 4711 on a file system without nosuid"},
  {RefusalCode::kRealRoot, "helper.real-root", "",
   "postern-helper was called by root, who does not need it", "use --userns, or run as an ordinary user"},
  {RefusalCode::kNoNewPrivs, "helper.no-new-privs", "",
   "no_new_privs is set, so the kernel ignores the setuid bit",
   "use --userns, or start outside of the sandbox or service that sets no_new_privs"},
  {RefusalCode::kUserNamespace, "helper.user-namespace", "",
   "this process is inside a user namespace, where the helper's root is not the host's",
   "use --userns, or start outside of the container"},
  {RefusalCode::kTraced, "helper.traced", "",
   "postern-helper is being traced", "start without the debugger, or use --userns"},
  {RefusalCode::kArguments, "helper.arguments", "",
   "postern-helper was called with arguments of its own; it is for the postern command only", "run postern"},
  {RefusalCode::kNoSocket, "helper.socket", "",
   "descriptor 3 of postern-helper is not the socket that the postern command makes", "run postern"},
  {RefusalCode::kDeadline, "helper.deadline", "",
   "the start took longer than it may",
   "try again; a hanging file system or a stopped process may be the reason"},
  {RefusalCode::kJudgeUser, "helper.judge-user", "",
   "the system user that the judge runs as does not exist", "have the user created: systemd-sysusers, or useradd -r"},
  {RefusalCode::kJudgeFailed, "helper.judge", "",
   "the judge gave no verdict", "have the installation checked: postern doctor"},
  {RefusalCode::kKernelTooOld, "helper.kernel", "",
   "the kernel lacks a system call that setuid mode needs", "use --userns, or Linux 5.14 or later"},
  {RefusalCode::kLimit, "helper.limit", "",
   "a hard resource limit would end setuid mode midway, and the node lets nobody raise it",
   "raise the hard limit (ulimit -H, or the batch system's option), or use --userns"},
  {RefusalCode::kCeiling, "helper.grantable", "grantable",
   "a capability was granted that root does not let anybody grant on this node",
   "leave it out of --add-caps, or have root make the file of its number: postern-security(7)"},

  {RefusalCode::kMalformedRequest, "request.form", "",
   "the request is malformed", "postern and postern-helper may be of different versions: have both installed anew"},
  {RefusalCode::kProtocolVersion, "request.version", "",
   "postern and postern-helper are of different versions", "have both installed from the same release"},
  {RefusalCode::kDescriptorCount, "request.descriptors", "",
   "the request names other descriptors than came with it", "postern and postern-helper may be of different versions"},
  {RefusalCode::kDescriptorKind, "request.descriptor-kind", "",
   "a descriptor is not of the kind that its use needs", "check that the path has not been replaced meanwhile"},
  {RefusalCode::kImageDescriptor, "request.image", "",
   "the image is not a regular file that can be read, or lies on FUSE or in /proc or /sys",
   "copy the image to an ordinary file system, or use --userns"},
  {RefusalCode::kMalformedVerdict, "helper.verdict", "",
   "the judge's verdict did not pass the helper's check", "report this, with the command line"},

  {RefusalCode::kConfigMissing, "config.missing", "",
   "a configuration file of the site is missing", "have postern.toml and ecl.toml installed, or use --userns"},
  {RefusalCode::kConfigInsecure, "config.insecure", "",
   "a configuration file of the site, or a directory above it, can be written by others than root, or is a symbolic link",
   "have it and all directories above it owned by root, and not writable by group or others"},
  {RefusalCode::kConfigMalformed, "config.malformed", "",
   "a configuration file of the site has an error", "postern config global check says where"},
  {RefusalCode::kSuidDisabled, "suid.enabled", "postern.toml",
   "setuid mode is switched off", "use --userns"},
  {RefusalCode::kContainerKind, "allow", "postern.toml",
   "containers of this kind are not allowed", "use an image of an allowed kind"},
  {RefusalCode::kOwnerLimit, "limit.owners", "postern.toml",
   "the image does not belong to one of the listed users", "use an image that one of them provides"},
  {RefusalCode::kGroupLimit, "limit.groups", "postern.toml",
   "the image does not belong to one of the listed groups", "use an image that one of them provides"},
  {RefusalCode::kPathLimit, "limit.paths", "postern.toml",
   "the image does not lie below one of the listed directories", "use an image from one of them"},
  {RefusalCode::kUnboundRoot, "limit.unbound-root", "postern.toml",
   "the site limits which containers run, and nothing can vouch for a root, or a layer, that the user serves or owns",
   "use an image that the kernel may mount (postern.toml(5), kernel-mount.squashfs), or --userns"},
  {RefusalCode::kNamespaceForbidden, "allow.namespaces", "postern.toml",
   "a namespace that was asked for is not allowed", "leave out its option"},
  {RefusalCode::kBindForbidden, "allow.user-binds", "postern.toml",
   "binds that the user chooses are not allowed", "leave out --bind, --mount, --home, --workdir and --scratch"},
  {RefusalCode::kKeyring, "config.keyring", "keyring",
   "the site's keyring cannot be used: it was changed without postern, or a file of it cannot be read",
   "have the administrator look at the log and run 'postern ecl check IMAGE', which says what is wrong and how to mend it"},
  {RefusalCode::kOverlayForbidden, "allow.overlay", "postern.toml",
   "overlays are not allowed", "leave out --overlay and --writable-tmpfs, or use --userns"},
  {RefusalCode::kCapability, "capability", "capability.toml",
   "a capability that was asked for is not granted to this user", "leave it out of --add-caps; postern capability list shows what is granted"},
  {RefusalCode::kKernelMount, "kernel-mount.squashfs", "postern.toml",
   "the kernel may not mount this image", "have the image sealed and signed by the site, or placed where the site trusts it"},
  {RefusalCode::kNetworkNamespace, "allow.netns-paths", "postern.toml",
   "this network namespace is not listed, or not for this user", "use a listed one"},
  {RefusalCode::kSessionSize, "session.max-size-mib", "postern.toml",
   "more scratch space, or more than 16 tmpfs mounts, were asked for than are allowed",
   "ask for less space, or for fewer of --scratch, --workdir and tmpfs mounts"},
  {RefusalCode::kMountForbidden, "mount", "postern.toml",
   "a system mount that was asked for is switched off", "leave out its option"},
  {RefusalCode::kImageMalformed, "image.form", "",
   "the image is damaged, or not what it says", "fetch or build the image again"},
  {RefusalCode::kNoRootPartition, "image.root-partition", "",
   "the image does not have exactly one primary system partition", "postern sif list shows its partitions"},
  {RefusalCode::kAuditLog, "audit.required", "postern.toml",
   "the audit line could not be written", "have the syslog daemon started"},
  {RefusalCode::kOverlayDirectory, "overlay.directory", "",
   "an overlay over a directory would read it with the rights of root, so setuid mode lays overlays over images only",
   "use --userns, or an image in the place of the directory"},

  {RefusalCode::kEclNoGroup, "ecl.no-group", "ecl.toml",
   "no rule of the execution control list covers the image's directory", "use an image from a directory that is covered"},
  {RefusalCode::kEclUnsigned, "ecl.unsigned", "ecl.toml",
   "the image is not signed by a required entity", "postern verify shows who signed it"},
  {RefusalCode::kEclForbidden, "ecl.forbidden", "ecl.toml",
   "the image is signed by a forbidden entity", "use another image"},
  {RefusalCode::kEclSignature, "ecl.signature", "ecl.toml",
   "a signature of the image does not verify", "postern verify says which"},
  {RefusalCode::kEclBinding, "ecl.binding", "ecl.toml",
   "the image is admitted, but its bytes are not bound as the rule asks",
   "have the image sealed, or owned by root and unwritable for others"},
  {RefusalCode::kSeal, "ecl.seal", "ecl.toml",
   "the image's seal is malformed or does not belong to its root partition",
   "delete its signatures and its seal (postern sif list, postern sif del), "
   "then sign it, which seals it: postern sign"},
  {RefusalCode::kUnsealed, "ecl.unsealed", "ecl.toml",
   "the image is signed but not sealed, and too large to be hashed at each start (more than 2 GiB)",
   "delete its signatures (postern sif list, postern sif del), "
   "then sign it, which seals it: postern sign; or use --userns"},
  {RefusalCode::kProfile, "ecl.profile", "ecl.toml",
   "the profile of this image does not allow it",
   "leave out what it denies; postern ecl check --explain IMAGE shows the profile"},

  {RefusalCode::kCryptHeader, "crypt.header", "",
   "the encrypted partition's header asks for something that is not supported", "encrypt the image with postern encrypt"},
  {RefusalCode::kCryptKey, "crypt.key", "",
   "the key does not fit the encrypted partition", "check the passphrase or key file"},
  {RefusalCode::kCryptForbidden, "allow.encrypted", "postern.toml",
   "encrypted images are not allowed", "use an image that is not encrypted"},
});
// clang-format on

// Each block of codes, first and last.
struct RefusalBlock {
  RefusalCode first;
  RefusalCode last;
};

inline constexpr std::array kRefusalBlocks = std::to_array<RefusalBlock>({
    {RefusalCode::kNotSetuid, RefusalCode::kCeiling},
    {RefusalCode::kMalformedRequest, RefusalCode::kMalformedVerdict},
    {RefusalCode::kConfigMissing, RefusalCode::kOverlayDirectory},
    {RefusalCode::kEclNoGroup, RefusalCode::kProfile},
    {RefusalCode::kCryptHeader, RefusalCode::kCryptForbidden},
});

constexpr bool refusals_are_complete() {
  std::size_t row = 0;
  for (const RefusalBlock& block : kRefusalBlocks) {
    for (auto code = static_cast<unsigned>(block.first); code <= static_cast<unsigned>(block.last);
         ++code, ++row) {
      if (row >= kRefusals.size() || static_cast<unsigned>(kRefusals[row].code) != code) {
        return false;
      }
    }
  }
  return row == kRefusals.size();
}

constexpr bool refusals_have_words() {
  for (const RefusalRow& row : kRefusals) {
    if (row.rule.empty() || row.words.empty() || row.cure.empty() || row.words.back() == '.') {
      return false;
    }
    for (const RefusalRow& other : kRefusals) {
      if (other.rule == row.rule && other.code != row.code) {
        return false;
      }
    }
  }
  return true;
}

static_assert(refusals_are_complete(), "one row for each code, in the order of the codes");
static_assert(refusals_have_words(), "each row has its own rule, words and a cure");

// nullptr for a code that is not in the table (kNone, or one of a newer release).
constexpr const RefusalRow* find_refusal(RefusalCode code) noexcept {
  for (const RefusalRow& row : kRefusals) {
    if (row.code == code) {
      return &row;
    }
  }
  return nullptr;
}

}  // namespace postern
