// What kind of image is this? By content, never by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "policy/image/squashfs.h"
#include "policy/problem.h"
#include "policy/sif/reader.h"

namespace postern::image {

enum class Kind : std::uint8_t { kDirectory, kSif, kSquashfs };

// An overlay partition that belongs to the primary partition's group.
struct Overlay {
  std::uint32_t object;
  sif::FileSystem fs;  // kSquashfs (checked), or kExt3 (which we never mount)
  sif::Extent extent;
};

struct ImageInfo {
  Kind kind = Kind::kDirectory;
  // Where the root file system lies; for an encrypted one the LUKS2 container. Not for directories.
  sif::Extent extent{};
  bool encrypted = false;              // LUKS2; the superblock is inside
  std::optional<Superblock> squashfs;  // absent for directories and encrypted images
  sif::Architecture architecture = sif::Architecture::kUnknown;  // of the primary partition
  std::uint32_t root_object = 0;  // SIF only: id and group of the primary partition
  std::uint32_t root_group = 0;
  std::vector<Overlay> overlays;
  std::optional<sif::Image> sif;  // SIF only
};

// Looks at a file or directory. The problem's text does not name
// the file: the caller knows its path. Errors: unknown content; ext3 and gocryptfs images, which
// are recognised and refused with the cure; SIF without exactly one primary partition; a root file
// system that is not inside the file or whose superblock is wrong.
Outcome<ImageInfo> identify(Snapshot& bytes);

// Where the ext2, ext3 or ext4 file system of an image lies, if that is what its root is: a bare
// one or a SIF's. Such an image is never the kernel's: fuse2fs(1) serves it.
struct ExtRoot {
  sif::Extent extent;
  std::optional<sif::Architecture> architecture;  // SIF only
};

std::optional<ExtRoot> find_ext_root(Snapshot& bytes);

// Where the gocryptfs container of a SIF lies, if that is its root: Apptainer encrypts so for users
// who are not root. postern-squashfs alone reads it (frontend/squashfs/gocryptfs.h).
struct GocryptfsRoot {
  sif::Extent extent;
  sif::Architecture architecture;
  std::uint32_t object;  // of the partition
  sif::Image sif;
};

std::optional<GocryptfsRoot> find_gocryptfs_root(Snapshot& bytes);

// Whether the bytes begin as such a file system does.
bool is_ext_file_system(Snapshot& bytes, const sif::Extent& extent);

// The file system between these bytes (a data or overlay image, or a partition): squashfs, with or
// without a launch line in front, and where it then lies.
struct FileSystemInfo {
  sif::Extent extent;
  Superblock squashfs;
};

Outcome<FileSystemInfo> identify_squashfs(Snapshot& bytes, const sif::Extent& extent);

// Can programs of `image` run on `host`? True for the same or an unknown architecture, for the
// 32-bit sibling that the host's kernel runs natively, and for architectures with an interpreter.
bool runs_on(sif::Architecture image,
             sif::Architecture host,
             const std::vector<sif::Architecture>& interpreters) noexcept;

// Architectures with an enabled interpreter in `directory` (/proc/sys/fs/binfmt_misc) that stays
// open inside a container (flag F). Empty where binfmt_misc is not mounted.
std::vector<sif::Architecture> interpreters(const std::string& directory);

// runs_on() for this host, with Apptainer's message.
Outcome<> check_architecture(sif::Architecture image);

// One entry of binfmt_misc, as its file reads: the architecture it emulates, or kUnknown when it is
// disabled, not persistent, or something else. For tests.
sif::Architecture parse_interpreter(std::string_view entry) noexcept;

}  // namespace postern::image
