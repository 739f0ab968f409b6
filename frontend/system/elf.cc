#include "frontend/system/elf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <string_view>
#include <vector>

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::system {
namespace {

constexpr std::string_view kVersion = "GLIBC_2.";
constexpr std::size_t kMaxEntries = 4096;  // of any table: a file with more is no library
constexpr std::size_t kMaxName = 256;

// "GLIBC_2.36" and "GLIBC_2.36.1" are 36; 0 if `name` is no version of glibc.
unsigned minor_of(std::string_view name) {
  unsigned minor = 0;
  if (name.starts_with(kVersion)) {
    name.remove_prefix(kVersion.size());
    std::from_chars(name.data(), name.data() + name.size(), minor);
  }
  return minor;
}

template <class T>
bool read_at(int file, std::uint64_t offset, T& out) {
  return ::pread(file, &out, sizeof out, static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(sizeof out);
}

template <class Types>
class Reader {
 public:
  explicit Reader(int file) : file_(file) {}

  bool read(Library& out) {
    typename Types::Header header;
    if (!read_at(file_, 0, header) || header.e_phnum > kMaxEntries) {
      return false;
    }
    out.machine = header.e_machine;
    std::uint64_t dynamic = 0;
    for (std::size_t i = 0; i < header.e_phnum; ++i) {
      typename Types::Segment segment;
      if (!read_at(file_, header.e_phoff + i * sizeof segment, segment)) {
        return false;
      }
      if (segment.p_type == PT_LOAD) {
        loads_.push_back(segment);
      } else if (segment.p_type == PT_DYNAMIC) {
        dynamic = segment.p_offset;
      }
    }
    if (dynamic != 0) {
      read_dynamic(dynamic, out);
    }
    return true;
  }

 private:
  // Where in the file the address lies; 0 if nowhere.
  [[nodiscard]] std::uint64_t place(std::uint64_t address) const {
    const auto load = std::find_if(loads_.begin(), loads_.end(), [&](const auto& one) {
      return address >= one.p_vaddr && address - one.p_vaddr < one.p_filesz;
    });
    return load == loads_.end() ? 0 : address - load->p_vaddr + load->p_offset;
  }

  [[nodiscard]] std::string name(std::uint64_t index) const {
    std::array<char, kMaxName> text{};
    const ssize_t got =
        ::pread(file_, text.data(), text.size() - 1, static_cast<off_t>(names_ + index));
    return got > 0 ? std::string(text.data()) : std::string();
  }

  void read_dynamic(std::uint64_t offset, Library& out) {
    std::optional<std::uint64_t> soname;
    std::uint64_t needs = 0;
    for (std::size_t i = 0; i < kMaxEntries; ++i) {
      typename Types::Dynamic entry;
      if (!read_at(file_, offset + i * sizeof entry, entry) || entry.d_tag == DT_NULL) {
        break;
      }
      if (entry.d_tag == DT_STRTAB) {
        names_ = place(entry.d_un.d_ptr);
      } else if (entry.d_tag == DT_SONAME) {
        soname = entry.d_un.d_val;
      } else if (entry.d_tag == DT_VERNEED) {
        needs = place(entry.d_un.d_ptr);
      }
    }
    if (names_ == 0) {
      return;
    }
    out.soname = soname ? name(*soname) : std::string();
    if (needs != 0) {
      out.glibc = newest_needed(needs);
    }
  }

  // The tables of both classes look the same: elf(5), "Elf64_Verneed".
  [[nodiscard]] unsigned newest_needed(std::uint64_t offset) const {
    unsigned newest = 0;
    Elf64_Verneed need;
    for (std::size_t files = 0; files < kMaxEntries && read_at(file_, offset, need); ++files) {
      std::uint64_t at = offset + need.vn_aux;
      for (unsigned i = 0; i < need.vn_cnt; ++i) {
        Elf64_Vernaux version;
        if (!read_at(file_, at, version)) {
          break;
        }
        newest = std::max(newest, minor_of(name(version.vna_name)));
        if (version.vna_next == 0) {
          break;
        }
        at += version.vna_next;
      }
      if (need.vn_next == 0) {
        break;
      }
      offset += need.vn_next;
    }
    return newest;
  }

  int file_;
  std::vector<typename Types::Segment> loads_;
  std::uint64_t names_ = 0;
};

struct Types32 {
  using Header = Elf32_Ehdr;
  using Segment = Elf32_Phdr;
  using Dynamic = Elf32_Dyn;
};

struct Types64 {
  using Header = Elf64_Ehdr;
  using Segment = Elf64_Phdr;
  using Dynamic = Elf64_Dyn;
};

UniqueFd open_to_read(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
}

}  // namespace

std::optional<Library> read_library(const std::string& path) {
  constexpr unsigned char kOrder =
      std::endian::native == std::endian::little ? ELFDATA2LSB : ELFDATA2MSB;
  const UniqueFd file = open_to_read(path);
  std::array<unsigned char, EI_NIDENT> ident{};
  if (!file.valid() || !read_at(file.get(), 0, ident) ||
      std::memcmp(ident.data(), ELFMAG, SELFMAG) != 0 || ident[EI_DATA] != kOrder) {
    return std::nullopt;
  }
  Library library;
  library.bits = ident[EI_CLASS] == ELFCLASS64 ? 64 : 32;
  const bool read = library.bits == 64 ? Reader<Types64>(file.get()).read(library)
                                       : Reader<Types32>(file.get()).read(library);
  return read ? std::optional(std::move(library)) : std::nullopt;
}

unsigned glibc_of(const std::string& path) {
  constexpr std::size_t kBeginning = std::size_t{512} * 1024;
  const UniqueFd file = open_to_read(path);
  std::string text(kBeginning, '\0');
  const ssize_t got = file.valid() ? ::pread(file.get(), text.data(), text.size(), 0) : -1;
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  unsigned newest = 0;
  for (auto at = text.find(kVersion); at != std::string::npos; at = text.find(kVersion, at + 1)) {
    newest = std::max(newest, minor_of(std::string_view(text).substr(at, kMaxName)));
  }
  return newest;
}

}  // namespace postern::system
