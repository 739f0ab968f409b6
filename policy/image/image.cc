#include "policy/image/image.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include <sys/stat.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/sif/bytes.h"
#include "protocol/base/unique_fd.h"

namespace postern::image {
namespace {

using sif::Architecture;
using sif::Extent;
using sif::FileSystem;
using sif::load;

// As much of the start of a file or partition as detection looks at (Apptainer's number).
constexpr std::size_t kProbeBytes = 2048;
// ext2/3/4: superblock at 1024, magic at 56 in it (Documentation/filesystems/ext4/super.rst).
constexpr std::size_t kExtMagicAt = 1080;

struct Probe {
  std::array<std::uint8_t, kProbeBytes> bytes;
  std::size_t size;

  [[nodiscard]] std::span<const std::uint8_t> view() const { return std::span(bytes).first(size); }

  // SAFETY: any object may be read as char.
  [[nodiscard]] std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes.data()), size};
  }
};

Outcome<Probe> probe(int fd, const Extent& extent) {
  Probe p{};
  p.size = static_cast<std::size_t>(std::min<std::uint64_t>(kProbeBytes, extent.bytes));
  POSTERN_TRY(
      sif::read_exactly(fd, extent.offset, std::span(p.bytes).first(p.size), "reading the image"));
  return p;
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
  return Problem{
      .what =
          "ext3 images are not supported: mounting one would hand a file system made by a user "
          "to the kernel",
      .cure =
          "convert it once: mount it as root (`mount -o loop,ro`) and run `postern build new.sif "
          "DIRECTORY`"};
}

Problem gocryptfs_refused() {
  return Problem{
      .what = "the image is encrypted with gocryptfs, which is not supported",
      .cure =
          "decrypt it with the program that made it (`apptainer build --sandbox DIRECTORY "
          "IMAGE`), then `postern build new.sif DIRECTORY` and `postern encrypt new.sif`"};
}

Outcome<ImageInfo> identify_sif(int fd) {
  POSTERN_TRY_ASSIGN(sif::Image image, sif::read(fd));
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
    POSTERN_TRY_ASSIGN(const FileSystemInfo found, identify_squashfs(fd, info.extent));
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
      if (const Outcome<FileSystemInfo> found = identify_squashfs(fd, *extent)) {
        info.overlays.push_back({.object = d.id, .fs = overlay->fs, .extent = found->extent});
      }
    }
  }
  info.sif = std::move(image);
  return info;
}

// ELF identification and machine (elf(5)): class, data encoding, e_machine.
struct ElfMachine {
  Architecture architecture;
  std::uint8_t elf_class;  // 1 = 32 bits, 2 = 64 bits
  std::uint8_t encoding;   // 1 = little endian, 2 = big endian
  std::uint16_t machine;
};

constexpr auto kElfMachines = std::to_array<ElfMachine>({
    {Architecture::k386, 1, 1, 3},
    {Architecture::kAmd64, 2, 1, 62},
    {Architecture::kArm, 1, 1, 40},
    {Architecture::kArm64, 2, 1, 183},
    {Architecture::kPpc64, 2, 2, 21},
    {Architecture::kPpc64le, 2, 1, 21},
    {Architecture::kMips, 1, 2, 8},
    {Architecture::kMipsle, 1, 1, 8},
    {Architecture::kMips64, 2, 2, 8},
    {Architecture::kMips64le, 2, 1, 8},
    {Architecture::kS390x, 2, 2, 22},
    {Architecture::kRiscv64, 2, 1, 243},
    {Architecture::kLoong64, 2, 1, 258},
});
static_assert(kElfMachines.size() == std::size_t(Architecture::kCount_) - 1,
              "one row per known architecture");

// The value of "key value" on a line of its own.
std::string_view value_of(std::string_view entry, std::string_view key) {
  while (!entry.empty()) {
    const std::size_t newline = entry.find('\n');
    const std::string_view line = entry.substr(0, newline);
    if (line.starts_with(key)) {
      return line.substr(key.size());
    }
    entry = newline == std::string_view::npos ? std::string_view{} : entry.substr(newline + 1);
  }
  return {};
}

// Hex digits to at most 20 bytes: as far as e_machine.
std::array<std::uint8_t, 20> from_hex(std::string_view hex) {
  std::array<std::uint8_t, 20> bytes{};
  const auto digit = [](char c) -> int {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 0;
  };
  for (std::size_t i = 0; i < bytes.size() && 2 * i + 1 < hex.size(); ++i) {
    bytes[i] = static_cast<std::uint8_t>(digit(hex[2 * i]) * 16 + digit(hex[2 * i + 1]));
  }
  return bytes;
}

}  // namespace

Outcome<FileSystemInfo> identify_squashfs(int fd, const Extent& whole) {
  POSTERN_TRY_ASSIGN(const Probe start, probe(fd, whole));
  const std::size_t skip = launch_line(start.text());
  FileSystemInfo info{};
  info.extent = {.offset = whole.offset + skip, .bytes = whole.bytes - skip};
  POSTERN_TRY_ASSIGN(info.squashfs,
                     parse_superblock(start.view().subspan(skip), info.extent.bytes));
  return info;
}

Outcome<ImageInfo> identify(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) {
    return system_problem("examining the image", errno);
  }
  if (S_ISDIR(status.st_mode)) {
    return ImageInfo{};
  }
  if (!S_ISREG(status.st_mode)) {
    return Problem{.what = "an image is a regular file or a directory, and this is neither"};
  }
  const Extent whole{.offset = 0, .bytes = static_cast<std::uint64_t>(status.st_size)};
  POSTERN_TRY_ASSIGN(const Probe start, probe(fd, whole));
  // From here on it is meant to be a SIF, and whatever is wrong with it is final.
  if (start.size == kProbeBytes && start.text().find("SIF_MAGIC") != std::string_view::npos) {
    return identify_sif(fd);
  }
  const std::size_t skip = launch_line(start.text());
  if (is_squashfs(start.view().subspan(skip))) {
    ImageInfo info;
    info.kind = Kind::kSquashfs;
    POSTERN_TRY_ASSIGN(const FileSystemInfo found, identify_squashfs(fd, whole));
    info.extent = found.extent;
    info.squashfs = found.squashfs;
    return info;
  }
  if (is_ext(start.view().subspan(skip)) || is_ext(start.view())) {
    return ext_refused();
  }
  return Problem{.what = whole.bytes == 0 ? "the file is empty"
                                          : "unknown image format: neither SIF nor squashfs",
                 .cure = "`postern build` makes an image from directories and archives"};
}

bool runs_on(Architecture image,
             Architecture host,
             const std::vector<Architecture>& interpreters) noexcept {
  const auto sibling = [](Architecture wide) {
    if (wide == Architecture::kAmd64) {
      return Architecture::k386;
    }
    if (wide == Architecture::kArm64) {
      return Architecture::kArm;
    }
    if (wide == Architecture::kMips64) {
      return Architecture::kMips;
    }
    return wide == Architecture::kMips64le ? Architecture::kMipsle : Architecture::kUnknown;
  };
  return image == Architecture::kUnknown || image == host || image == sibling(host) ||
         std::find(interpreters.begin(), interpreters.end(), image) != interpreters.end();
}

Architecture parse_interpreter(std::string_view entry) noexcept {
  if (!entry.starts_with("enabled\n") ||
      value_of(entry, "flags: ").find('F') == std::string_view::npos ||
      value_of(entry, "offset ") != "0") {
    return Architecture::kUnknown;
  }
  const auto magic = from_hex(value_of(entry, "magic "));
  if (std::memcmp(magic.data(),
                  "\x7f"
                  "ELF",
                  4) != 0) {
    return Architecture::kUnknown;
  }
  for (const ElfMachine& row : kElfMachines) {
    const bool little = row.encoding == 1;
    const auto machine = static_cast<std::uint16_t>(little ? magic[18] | magic[19] << 8
                                                           : magic[18] << 8 | magic[19]);
    if (magic[4] == row.elf_class && magic[5] == row.encoding && machine == row.machine) {
      return row.architecture;
    }
  }
  return Architecture::kUnknown;
}

std::vector<Architecture> interpreters(const std::string& directory) {
  std::vector<Architecture> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(directory.c_str()), ::closedir);
  if (entries == nullptr) {
    return found;
  }
  while (const dirent* entry =
             ::readdir(entries.get())) {  // NOLINT(concurrency-mt-unsafe): own DIR
    const UniqueFd file(
        ::openat(::dirfd(entries.get()), entry->d_name, O_RDONLY | O_CLOEXEC | O_NOCTTY));
    std::array<char, 4096> text{};
    const ssize_t n = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
    if (n > 0) {
      const Architecture a = parse_interpreter({text.data(), static_cast<std::size_t>(n)});
      if (a != Architecture::kUnknown) {
        found.push_back(a);
      }
    }
  }
  return found;
}

Outcome<> check_architecture(Architecture image) {
  const Architecture host = sif::host_architecture();
  if (runs_on(image, host, {}) || runs_on(image, host, interpreters("/proc/sys/fs/binfmt_misc"))) {
    return Ok{};
  }
  return Problem{.what = "the image targets '" + std::string(sif::name_of(image)) +
                         "', cannot run on '" + std::string(sif::name_of(host)) + "'",
                 .cure =
                     "use an image for this architecture, or have the administrator install "
                     "qemu-user-static with persistent binfmt_misc entries (flag F)"};
}

}  // namespace postern::image
