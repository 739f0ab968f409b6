// What the judge knows when it decides. Gathered by policy/judge/gather.h; decide() sees nothing
// else, so that every rule is tested without root and without files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "policy/admit/admit.h"
#include "policy/ecl/ecl.h"
#include "protocol/refusal.h"
#include "protocol/verdict.h"

namespace postern::judge {

enum class ImageKind : std::uint8_t { kSif, kSquashfs };

// An image file that the kernel is asked to mount.
struct ImageFacts {
  RefusalCode problem = RefusalCode::kNone;  // it is not an image that we could run at all
  ImageKind kind = ImageKind::kSif;
  bool encrypted = false;
  std::uint64_t offset = 0;  // of the root file system, bytes
  std::uint64_t bytes = 0;
  std::uint32_t uid = 0;  // owner of the file
  std::uint32_t gid = 0;
  bool unwritable = false;  // belongs to root and nobody else may write it
  // Where the file lies, from the kernel's view of the descriptor; nothing where that cannot be
  // relied on (deleted, or opened in another mount namespace).
  std::optional<std::string> path;
  std::optional<VerityGeometry> verity;  // of a seal that belongs to the root file system
  std::optional<CryptGeometry> crypt;    // of an encrypted one; the key fits
};

struct FileId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;

  bool operator==(const FileId&) const = default;
};

// The source of a bind.
struct SourceFacts {
  FileId id;
  std::optional<std::string> path;  // as for an image
  bool is_mount_root = false;       // the root of a file system that is mounted there
  std::uint64_t device = 0;         // of a character device: st_rdev
};

// A bind that the site makes in every container: [mount] binds, home and tmp.
struct SiteBind {
  FileId source;
  std::string target;
  bool is_home = false;
};

struct Facts {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::vector<std::uint32_t> groups;  // supplementary, and gid

  std::optional<ImageFacts> image;  // for RootKind::kImage
  // Empty where no rule needs to know. `sources` is by index of the request's descriptors.
  std::vector<SourceFacts> sources;
  std::vector<SiteBind> site_binds;

  admit::Limits limits;

  std::uint64_t granted_capabilities = 0;  // capability.toml, for this user and these groups
  bool may_join_network = false;           // the namespace is listed, and listed for this user

  bool ecl_active = false;
  std::optional<ecl::EclDecision> ecl;  // where it is active, or there is a signed image
  std::optional<ecl::Profile> profile;  // of that decision
};

}  // namespace postern::judge
