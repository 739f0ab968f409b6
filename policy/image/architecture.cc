// Which images run on this host: the part of image.h that reads /proc, and no image.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "policy/image/image.h"
#include "protocol/base/unique_fd.h"

namespace postern::image {
namespace {

using sif::Architecture;

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
