#include "policy/image/image.h"

#include <algorithm>

#include "policy/sif/bytes.h"

namespace postern::image {
namespace {

using sif::Extent;
using sif::FileSystem;
using sif::load;

// As much of the start of a file or partition as detection looks at (Apptainer's number).
constexpr std::size_t kProbeBytes = 2048;
// ext2/3/4: superblock at 1024, magic at 56 in it (Documentation/filesystems/ext4/super.rst).
constexpr std::size_t kExtMagicAt = 1080;

struct Probe {
  std::span<const std::uint8_t> view;

  // SAFETY: any object may be read as char.
  [[nodiscard]] std::string_view text() const {
    return {reinterpret_cast<const char*>(view.data()), view.size()};
  }
};

Outcome<Probe> probe(Snapshot& bytes, const Extent& extent) {
  POSTERN_TRY_ASSIGN(const std::span<const std::uint8_t> view,
                     bytes.fetch({.offset = extent.offset,
                                  .bytes = std::min<std::uint64_t>(kProbeBytes, extent.bytes)},
                                 "reading the image"));
  return Probe{view};
}

// Length of an interpreter line "#!…run-singularity…\n" in front of the file system; 0 = none.
std::size_t launch_line(std::string_view text) {
  if (!text.starts_with("#!")) {
    return 0;
  }
  const std::size_t newline = text.find('\n');
  if (newline == std::string_view::npos ||
      text.substr(0, newline).find(" run-singularity") == std::string_view::npos) {
    return 0;
  }
  return newline + 1;
}

bool is_ext(std::span<const std::uint8_t> bytes) {
  return bytes.size() >= kExtMagicAt + 2 && load<std::uint16_t>(bytes, kExtMagicAt) == 0xef53;
}

Problem ext_refused() {
  return Problem{.what =
                     "the image is an ext3 file system, which is served by fuse2fs in "
                     "user-namespace mode alone",
                 .cure =
                     "copy it once: `postern exec IMAGE tar -cf - / > root.tar`, and `postern "
                     "build new.sif root.tar`"};
}

Problem gocryptfs_refused() {
  return Problem{
      .what = "the image is encrypted with gocryptfs, and runs in user-namespace mode alone",
      .cure =
          "copy it once: `postern exec IMAGE tar -cf - / > root.tar`, then `postern build new.sif "
          "root.tar` and `postern encrypt new.sif locked.sif`"};
}

Outcome<ImageInfo> identify_sif(Snapshot& bytes) {
  POSTERN_TRY_ASSIGN(sif::Image image, sif::read(bytes));
  ImageInfo info;
  info.kind = Kind::kSif;
  POSTERN_TRY_ASSIGN(const sif::Descriptor* root, image.primary_partition());
  const sif::PartitionInfo& partition = *root->partition();
  POSTERN_TRY_ASSIGN(info.extent, image.extent_of(*root));
  info.architecture = partition.architecture;
  info.root_object = root->id;
  info.root_group = root->group;
  if (partition.fs == FileSystem::kLuksSquashfs) {
    info.encrypted = true;
  } else if (partition.fs == FileSystem::kSquashfs) {
    POSTERN_TRY_ASSIGN(const FileSystemInfo found, identify_squashfs(bytes, info.extent));
    info.extent = found.extent;
    info.squashfs = found.squashfs;
  } else if (partition.fs == FileSystem::kExt3) {
    return ext_refused();
  } else if (partition.fs == FileSystem::kGocryptfsSquashfs) {
    return gocryptfs_refused();
  } else {
    return Problem{.what = "the primary partition is no file system that can be run (type " +
                           std::to_string(static_cast<std::int32_t>(partition.fs)) + ", " +
                           std::string(sif::name_of(partition.fs)) + ")"};
  }
  for (const sif::Descriptor& d : image.descriptors()) {
    const sif::PartitionInfo* overlay = d.partition();
    if (overlay == nullptr || overlay->type != sif::PartitionType::kOverlay ||
        d.group != root->group) {
      continue;
    }
    // As with Apptainer, an overlay that cannot be used is no reason not to run the image.
    const Outcome<Extent> extent = image.extent_of(d);
    if (!extent) {
      continue;
    }
    if (overlay->fs == FileSystem::kExt3) {
      info.overlays.push_back({.object = d.id, .fs = overlay->fs, .extent = *extent});
    } else if (overlay->fs == FileSystem::kSquashfs) {
      if (const Outcome<FileSystemInfo> found = identify_squashfs(bytes, *extent)) {
        info.overlays.push_back({.object = d.id, .fs = overlay->fs, .extent = found->extent});
      }
    }
  }
  info.sif = std::move(image);
  return info;
}

}  // namespace

Outcome<FileSystemInfo> identify_squashfs(Snapshot& bytes, const Extent& whole) {
  POSTERN_TRY_ASSIGN(const Probe start, probe(bytes, whole));
  const std::size_t skip = launch_line(start.text());
  FileSystemInfo info{};
  info.extent = {.offset = whole.offset + skip, .bytes = whole.bytes - skip};
  POSTERN_TRY_ASSIGN(info.squashfs, parse_superblock(start.view.subspan(skip), info.extent.bytes));
  return info;
}

bool is_ext_file_system(Snapshot& bytes, const Extent& extent) {
  const Outcome<Probe> start = probe(bytes, extent);
  return start && is_ext(start->view);
}

std::optional<ExtRoot> find_ext_root(Snapshot& bytes) {
  if (bytes.kind() != Snapshot::Kind::kRegular) {
    return std::nullopt;
  }
  const Extent whole{.offset = 0, .bytes = bytes.bytes()};
  const Outcome<Probe> start = probe(bytes, whole);
  if (!start) {
    return std::nullopt;
  }
  if (start->text().find("SIF_MAGIC") == std::string_view::npos) {
    return is_ext(start->view) ? std::optional(ExtRoot{.extent = whole, .architecture = {}})
                               : std::nullopt;
  }
  const Outcome<sif::Image> image = sif::read(bytes);
  const auto root = image ? image->primary_partition() : Outcome<const sif::Descriptor*>(Problem{});
  if (!root || (*root)->partition()->fs != FileSystem::kExt3) {
    return std::nullopt;
  }
  const Outcome<Extent> extent = image->extent_of(**root);
  return extent && is_ext_file_system(bytes, *extent)
             ? std::optional(
                   ExtRoot{.extent = *extent, .architecture = (*root)->partition()->architecture})
             : std::nullopt;
}

std::optional<GocryptfsRoot> find_gocryptfs_root(Snapshot& bytes) {
  const Extent whole{.offset = 0, .bytes = bytes.bytes()};
  const Outcome<Probe> start =
      bytes.kind() == Snapshot::Kind::kRegular ? probe(bytes, whole) : Outcome<Probe>(Problem{});
  if (!start || start->text().find("SIF_MAGIC") == std::string_view::npos) {
    return std::nullopt;
  }
  Outcome<sif::Image> image = sif::read(bytes);
  const auto root = image ? image->primary_partition() : Outcome<const sif::Descriptor*>(Problem{});
  if (!root || (*root)->partition()->fs != FileSystem::kGocryptfsSquashfs) {
    return std::nullopt;
  }
  const Outcome<Extent> extent = image->extent_of(**root);
  if (!extent) {
    return std::nullopt;
  }
  return GocryptfsRoot{.extent = *extent,
                       .architecture = (*root)->partition()->architecture,
                       .object = (*root)->id,
                       .sif = *std::move(image)};
}

Outcome<ImageInfo> identify(Snapshot& bytes) {
  switch (bytes.kind()) {
    case Snapshot::Kind::kUnknown:
      return system_problem("examining the image", bytes.error());
    case Snapshot::Kind::kDirectory:
      return ImageInfo{};
    case Snapshot::Kind::kOther:
      return Problem{.what = "an image is a regular file or a directory, and this is neither"};
    case Snapshot::Kind::kRegular:
      break;
  }
  const Extent whole{.offset = 0, .bytes = bytes.bytes()};
  POSTERN_TRY_ASSIGN(const Probe start, probe(bytes, whole));
  // From here on it is meant to be a SIF, and whatever is wrong with it is final.
  if (start.view.size() == kProbeBytes &&
      start.text().find("SIF_MAGIC") != std::string_view::npos) {
    return identify_sif(bytes);
  }
  const std::size_t skip = launch_line(start.text());
  if (is_squashfs(start.view.subspan(skip))) {
    ImageInfo info;
    info.kind = Kind::kSquashfs;
    POSTERN_TRY_ASSIGN(const FileSystemInfo found, identify_squashfs(bytes, whole));
    info.extent = found.extent;
    info.squashfs = found.squashfs;
    return info;
  }
  if (is_ext(start.view.subspan(skip)) || is_ext(start.view)) {
    return ext_refused();
  }
  return Problem{.what = whole.bytes == 0 ? "the file is empty"
                                          : "unknown image format: neither SIF nor squashfs",
                 .cure = "`postern build` makes an image from directories and archives"};
}

}  // namespace postern::image
